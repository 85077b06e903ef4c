//! References to Python objects: borrowed, counted, and as fields of our own objects.

use std::cell::{Cell, UnsafeCell};
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use pyo3::ffi;

use super::call::{get_attribute, vectorcall, vectorcall_method};
use super::method::Args;
use super::stack::check_rest_of_stack;
use super::{Raised, Res};

/// A borrowed Python object. Only ever seen as `&Object`.
#[repr(transparent)]
pub(crate) struct Object(UnsafeCell<ffi::PyObject>);

/// `None`.
#[inline]
pub(crate) fn none() -> &'static Object {
    // SAFETY: the singleton lives as long as the interpreter.
    unsafe { Object::from_ptr(ffi::Py_None()) }
}

impl Object {
    /// # Safety
    /// `ptr` is a live object, and stays alive for `'a`.
    #[inline]
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut ffi::PyObject) -> &'a Self {
        debug_assert!(!ptr.is_null());
        // SAFETY: guaranteed by the caller; the type is transparent over PyObject.
        unsafe { &*ptr.cast::<Self>() }
    }

    /// As [`from_ptr`](Self::from_ptr), `None` for null.
    ///
    /// # Safety
    /// `ptr` is null or as there.
    #[inline]
    pub(crate) unsafe fn from_nullable<'a>(ptr: *mut ffi::PyObject) -> Option<&'a Self> {
        // SAFETY: guaranteed by the caller.
        (!ptr.is_null()).then(|| unsafe { Self::from_ptr(ptr) })
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.get()
    }

    /// A new reference.
    #[inline]
    pub(crate) fn own(&self) -> Owned {
        // SAFETY: a live object.
        unsafe {
            ffi::Py_INCREF(self.as_ptr());
            Owned::steal_unchecked(self.as_ptr())
        }
    }

    #[inline]
    pub(crate) fn is(&self, other: &Object) -> bool {
        ptr::eq(self.as_ptr(), other.as_ptr())
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.is(none())
    }

    /// The object's type, as a pointer to compare.
    #[inline]
    pub(crate) fn type_ptr(&self) -> *mut ffi::PyTypeObject {
        // SAFETY: a live object.
        unsafe { ffi::Py_TYPE(self.as_ptr()) }
    }

    /// The object's type.
    pub(crate) fn class(&self) -> &Object {
        // SAFETY: an object keeps its type alive.
        unsafe { Object::from_ptr(self.type_ptr().cast()) }
    }

    /// `type(object).__name__`.
    pub(crate) fn class_name(&self) -> Res<String> {
        let name = self.class().getattr(&*Owned::from_str("__name__")?)?;
        name.to_text()
    }

    pub(crate) fn getattr(&self, name: &Object) -> Res<Owned> {
        // SAFETY: live objects.
        unsafe { Owned::steal(get_attribute(self.as_ptr(), name.as_ptr())) }
    }

    /// The attribute, or `None` where `AttributeError` would be raised.
    pub(crate) fn getattr_optional(&self, name: &Object) -> Res<Option<Owned>> {
        match self.getattr(name) {
            Ok(value) => Ok(Some(value)),
            Err(Raised) => {
                // SAFETY: an exception is set, and the class is a live object.
                let absent = unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) } != 0;
                if !absent {
                    return Err(Raised);
                }
                // SAFETY: the GIL is held.
                unsafe { ffi::PyErr_Clear() };
                Ok(None)
            }
        }
    }

    pub(crate) fn setattr(&self, name: &Object, value: &Object) -> Res<()> {
        // SAFETY: live objects.
        check(unsafe { ffi::PyObject_SetAttr(self.as_ptr(), name.as_ptr(), value.as_ptr()) })
    }

    /// Calls with positional arguments.
    #[inline]
    pub(crate) fn call(&self, args: &[&Object]) -> Res<Owned> {
        self.call_with(args, None)
    }

    /// Calls with arguments of which the last ones are named by the tuple `kwnames`.
    #[inline]
    pub(crate) fn call_with(&self, args: &[&Object], kwnames: Option<&Object>) -> Res<Owned> {
        // The first place is scratch that the callee may use to prepend `self` (PEP 590).
        let mut stack = [ptr::null_mut(); 8];
        if args.len() >= stack.len() {
            return self.call_with_many(args, kwnames);
        }
        for (place, arg) in stack[1..].iter_mut().zip(args) {
            *place = arg.as_ptr();
        }
        let named = kwnames.map_or(0, tuple_len);
        // SAFETY: `stack` holds live objects in the places that the callee may read.
        unsafe {
            Owned::steal(vectorcall(
                self.as_ptr(),
                stack.as_ptr().add(1),
                (args.len() - named) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                kwnames.map_or(ptr::null_mut(), Object::as_ptr),
            ))
        }
    }

    #[cold]
    fn call_with_many(&self, args: &[&Object], kwnames: Option<&Object>) -> Res<Owned> {
        let stack: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
        let named = kwnames.map_or(0, tuple_len);
        // SAFETY: `stack` holds live objects, and nothing is said of a place before them.
        unsafe {
            Owned::steal(vectorcall(
                self.as_ptr(),
                stack.as_ptr(),
                args.len() - named,
                kwnames.map_or(ptr::null_mut(), Object::as_ptr),
            ))
        }
    }

    /// Calls with all of another call's arguments.
    pub(crate) fn call_all(&self, args: Args<'_>) -> Res<Owned> {
        let (items, positional, names) = args.parts();
        // SAFETY: live objects, as the vectorcall protocol has them.
        unsafe {
            Owned::steal(vectorcall(
                self.as_ptr(),
                items.as_ptr().cast(),
                positional,
                names.map_or(ptr::null_mut(), Object::as_ptr),
            ))
        }
    }

    /// Calls a method with positional arguments, at most seven.
    pub(crate) fn call_method(&self, name: &Object, args: &[&Object]) -> Res<Owned> {
        self.call_method_with(name, args, None)
    }

    /// Calls a method with arguments of which the last ones are named by the tuple `kwnames`.
    pub(crate) fn call_method_with(
        &self,
        name: &Object,
        args: &[&Object],
        kwnames: Option<&Object>,
    ) -> Res<Owned> {
        // The method may be native and call the method of another object, and so on in a cycle.
        check_rest_of_stack()?;
        let mut stack = [ptr::null_mut(); 8];
        assert!(args.len() < stack.len(), "too many arguments for one call");
        stack[0] = self.as_ptr();
        for (place, arg) in stack[1..].iter_mut().zip(args) {
            *place = arg.as_ptr();
        }
        let named = kwnames.map_or(0, tuple_len);
        // SAFETY: `stack` holds live objects in the places that the callee may read.
        unsafe {
            Owned::steal(vectorcall_method(
                name.as_ptr(),
                stack.as_ptr(),
                args.len() + 1 - named,
                kwnames.map_or(ptr::null_mut(), Object::as_ptr),
            ))
        }
    }

    pub(crate) fn is_instance(&self, class: &Object) -> Res<bool> {
        // SAFETY: live objects.
        truth(unsafe { ffi::PyObject_IsInstance(self.as_ptr(), class.as_ptr()) })
    }

    pub(crate) fn is_true(&self) -> Res<bool> {
        // SAFETY: a live object.
        truth(unsafe { ffi::PyObject_IsTrue(self.as_ptr()) })
    }

    pub(crate) fn equals(&self, other: &Object) -> Res<bool> {
        // SAFETY: live objects.
        truth(unsafe { ffi::PyObject_RichCompareBool(self.as_ptr(), other.as_ptr(), ffi::Py_EQ) })
    }

    /// `hash(object)`.
    pub(crate) fn hash(&self) -> Res<isize> {
        // SAFETY: a live object.
        match unsafe { ffi::PyObject_Hash(self.as_ptr()) } {
            -1 => Err(Raised),
            hash => Ok(hash),
        }
    }

    pub(crate) fn is_callable(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyCallable_Check(self.as_ptr()) != 0 }
    }

    pub(crate) fn is_type(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyType_Check(self.as_ptr()) != 0 }
    }

    pub(crate) fn str(&self) -> Res<Owned> {
        check_rest_of_stack()?;
        // SAFETY: a live object.
        unsafe { Owned::steal(ffi::PyObject_Str(self.as_ptr())) }
    }

    /// The `repr` of native objects may recurse, even in a cycle.
    pub(crate) fn repr(&self) -> Res<Owned> {
        check_rest_of_stack()?;
        // SAFETY: a live object.
        unsafe { Owned::steal(ffi::PyObject_Repr(self.as_ptr())) }
    }

    /// The text of a `str` object; lone surrogates are replaced.
    pub(crate) fn to_text(&self) -> Res<String> {
        let mut len = 0;
        // SAFETY: a live object; the buffer belongs to it and is copied at once.
        unsafe {
            let bytes = ffi::PyUnicode_AsUTF8AndSize(self.as_ptr(), &mut len);
            if bytes.is_null() {
                ffi::PyErr_Clear();
                let encoded = Owned::steal(ffi::PyUnicode_AsEncodedString(
                    self.as_ptr(),
                    c"utf-8".as_ptr(),
                    c"replace".as_ptr(),
                ))?;
                return Ok(encoded.bytes().map(lossy).unwrap_or_default());
            }
            Ok(lossy(std::slice::from_raw_parts(
                bytes.cast(),
                len as usize,
            )))
        }
    }

    /// The content of a `bytes` object.
    #[inline]
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        // SAFETY: a live object; bytes are immutable and live as long as it does.
        unsafe {
            if ffi::PyBytes_Check(self.as_ptr()) == 0 {
                return None;
            }
            let data = ffi::PyBytes_AS_STRING(self.as_ptr());
            let len = ffi::Py_SIZE(self.as_ptr());
            Some(std::slice::from_raw_parts(data.cast(), len as usize))
        }
    }

    /// The value of an `int`, or of what has `__index__`.
    pub(crate) fn to_isize(&self) -> Res<isize> {
        // SAFETY: live objects.
        unsafe {
            let number = ffi::PyNumber_AsSsize_t(self.as_ptr(), ffi::PyExc_OverflowError);
            if number == -1 && !ffi::PyErr_Occurred().is_null() {
                return Err(Raised);
            }
            Ok(number)
        }
    }

    /// A number of bytes that a program asks for: as [`to_isize`](Self::to_isize), but one that is
    /// too large is the largest, and what can't be compared with zero is refused in the words of
    /// that comparison.
    pub(crate) fn to_count(&self) -> Res<isize> {
        // SAFETY: live objects.
        unsafe {
            if ffi::PyLong_Check(self.as_ptr()) == 0 {
                let zero = Owned::from_i64(0)?;
                truth(ffi::PyObject_RichCompareBool(
                    self.as_ptr(),
                    zero.as_ptr(),
                    ffi::Py_LT,
                ))?;
            }
            let number = ffi::PyNumber_AsSsize_t(self.as_ptr(), ptr::null_mut());
            if number == -1 && !ffi::PyErr_Occurred().is_null() {
                return Err(Raised);
            }
            Ok(number)
        }
    }

    /// `now + self`, for a delay. What is no number is added by Python, which says of it what
    /// asyncio's addition says: a `Decimal` has a value, and still can't be added to a `float`.
    #[inline]
    pub(crate) fn after(&self, now: f64) -> Res<f64> {
        // SAFETY: a live object, read as what it exactly is.
        unsafe {
            if ffi::PyFloat_CheckExact(self.as_ptr()) != 0
                || ffi::PyLong_CheckExact(self.as_ptr()) != 0
            {
                return Ok(now + self.to_f64()?);
            }
        }
        self.added_to(now)
    }

    #[cold]
    fn added_to(&self, now: f64) -> Res<f64> {
        let now = Owned::from_f64(now)?;
        // SAFETY: live objects.
        unsafe { Owned::steal(ffi::PyNumber_Add(now.as_ptr(), self.as_ptr()))? }.to_f64()
    }

    /// The value of a `float`, or of what has `__float__` or `__index__`.
    pub(crate) fn to_f64(&self) -> Res<f64> {
        // SAFETY: a live object, read as what it exactly is. `PyFloat_AsDouble` makes a float of an
        // int first.
        unsafe {
            if ffi::PyFloat_CheckExact(self.as_ptr()) != 0 {
                return Ok(ffi::PyFloat_AS_DOUBLE(self.as_ptr()));
            }
            let number = if ffi::PyLong_CheckExact(self.as_ptr()) != 0 {
                ffi::PyLong_AsDouble(self.as_ptr())
            } else {
                ffi::PyFloat_AsDouble(self.as_ptr())
            };
            if number == -1.0 && !ffi::PyErr_Occurred().is_null() {
                return Err(Raised);
            }
            Ok(number)
        }
    }

    pub(crate) fn refcount(&self) -> isize {
        // SAFETY: a live object.
        unsafe { ffi::Py_REFCNT(self.as_ptr()) as isize }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A counted reference.
#[repr(transparent)]
pub(crate) struct Owned(NonNull<ffi::PyObject>);

impl Owned {
    /// Takes over a new reference as the C API returns it; null means that an exception is set.
    ///
    /// # Safety
    /// `ptr` is null or a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn steal(ptr: *mut ffi::PyObject) -> Res<Self> {
        NonNull::new(ptr).map(Self).ok_or(Raised)
    }

    /// # Safety
    /// `ptr` is a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn steal_unchecked(ptr: *mut ffi::PyObject) -> Self {
        // SAFETY: guaranteed by the caller.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// Gives the reference away.
    #[inline]
    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        ManuallyDrop::new(self).0.as_ptr()
    }

    pub(crate) fn from_str(text: &str) -> Res<Self> {
        // SAFETY: a valid UTF-8 buffer of that length.
        unsafe {
            Self::steal(ffi::PyUnicode_FromStringAndSize(
                text.as_ptr().cast(),
                text.len() as isize,
            ))
        }
    }

    pub(crate) fn from_f64(number: f64) -> Res<Self> {
        // SAFETY: the GIL is held.
        unsafe { Self::steal(ffi::PyFloat_FromDouble(number)) }
    }

    pub(crate) fn from_i64(number: i64) -> Res<Self> {
        // SAFETY: the GIL is held.
        unsafe { Self::steal(ffi::PyLong_FromLongLong(number)) }
    }

    pub(crate) fn from_u64(number: u64) -> Res<Self> {
        // SAFETY: the GIL is held.
        unsafe { Self::steal(ffi::PyLong_FromUnsignedLongLong(number)) }
    }

    #[inline]
    pub(crate) fn from_bool(value: bool) -> Self {
        // SAFETY: the singletons are live.
        unsafe {
            Object::from_ptr(if value {
                ffi::Py_True()
            } else {
                ffi::Py_False()
            })
        }
        .own()
    }

    #[inline]
    pub(crate) fn none() -> Self {
        none().own()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Res<Self> {
        // SAFETY: a valid buffer of that length.
        unsafe {
            Self::steal(ffi::PyBytes_FromStringAndSize(
                bytes.as_ptr().cast(),
                bytes.len() as isize,
            ))
        }
    }

    pub(crate) fn tuple(items: &[&Object]) -> Res<Self> {
        // SAFETY: each place of the new tuple is filled once with a reference of its own.
        unsafe {
            let tuple = Self::steal(ffi::PyTuple_New(items.len() as isize))?;
            for (index, item) in items.iter().enumerate() {
                ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as isize, item.own().into_ptr());
            }
            Ok(tuple)
        }
    }

    pub(crate) fn list() -> Res<Self> {
        // SAFETY: the GIL is held.
        unsafe { Self::steal(ffi::PyList_New(0)) }
    }

    /// A list of `len` items, made one by one. It is not reachable before it is complete, whatever
    /// code `make` runs.
    #[inline]
    pub(crate) fn list_of(len: usize, mut item: impl FnMut(usize) -> Res<Self>) -> Res<Self> {
        // SAFETY: each place of the new list is filled once with a reference of its own; the
        // collector does not know the list while there are empty places, and freeing one with such
        // is allowed.
        unsafe {
            let list = Self::steal(ffi::PyList_New(len as isize))?;
            ffi::PyObject_GC_UnTrack(list.as_ptr().cast());
            for index in 0..len {
                ffi::PyList_SET_ITEM(list.as_ptr(), index as isize, item(index)?.into_ptr());
            }
            ffi::PyObject_GC_Track(list.as_ptr().cast());
            Ok(list)
        }
    }

    pub(crate) fn dict() -> Res<Self> {
        // SAFETY: the GIL is held.
        unsafe { Self::steal(ffi::PyDict_New()) }
    }
}

impl Object {
    /// `list.append`, for a list.
    pub(crate) fn append(&self, item: &Object) -> Res<()> {
        // SAFETY: live objects; the C API checks the type.
        check(unsafe { ffi::PyList_Append(self.as_ptr(), item.as_ptr()) })
    }

    /// `dict[key] = value`, for a dict and any key.
    pub(crate) fn set(&self, key: &Object, value: &Object) -> Res<()> {
        // SAFETY: live objects; the C API checks the type.
        check(unsafe { ffi::PyDict_SetItem(self.as_ptr(), key.as_ptr(), value.as_ptr()) })
    }

    /// `dict[key] = value`, for a dict.
    pub(crate) fn set_item(&self, key: &CStr, value: &Object) -> Res<()> {
        // SAFETY: live objects; the C API checks the type.
        check(unsafe { ffi::PyDict_SetItemString(self.as_ptr(), key.as_ptr(), value.as_ptr()) })
    }
}

impl Deref for Owned {
    type Target = Object;
    #[inline]
    fn deref(&self) -> &Object {
        // SAFETY: an owned reference keeps its object alive.
        unsafe { Object::from_ptr(self.0.as_ptr()) }
    }
}

impl Clone for Owned {
    #[inline]
    fn clone(&self) -> Self {
        self.own()
    }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and is given up once.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) }
    }
}

/// A field that holds a counted reference, or nothing. All zero bytes are a valid empty slot.
///
/// `get` borrows what the slot holds now. Whoever runs Python code while using it must take a
/// reference of their own first, as that code may fill the slot anew.
#[repr(transparent)]
#[derive(Default)]
pub(crate) struct Slot(Cell<Option<NonNull<ffi::PyObject>>>);

impl Slot {
    #[inline]
    pub(crate) fn get(&self) -> Option<&Object> {
        // SAFETY: what the slot holds, it keeps alive.
        self.0
            .get()
            .map(|ptr| unsafe { Object::from_ptr(ptr.as_ptr()) })
    }

    /// A reference of the caller's own.
    #[inline]
    pub(crate) fn cloned(&self) -> Option<Owned> {
        self.get().map(Object::own)
    }

    /// As the value of an attribute: `None` for an empty slot.
    pub(crate) fn or_none(&self) -> Owned {
        self.cloned().unwrap_or_else(Owned::none)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.get().is_none()
    }

    #[inline]
    pub(crate) fn holds(&self, object: &Object) -> bool {
        self.get().is_some_and(|held| held.is(object))
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<Owned> {
        self.0.take().map(Owned)
    }

    /// Fills the slot; what it held before is released after that.
    #[inline]
    pub(crate) fn set(&self, value: Owned) {
        drop(self.replace(Some(value)));
    }

    /// Fills a slot that is known to be empty, in what was made just now.
    #[inline]
    pub(crate) fn fill(&self, value: Owned) {
        debug_assert!(self.is_empty());
        self.0.set(Some(ManuallyDrop::new(value).0));
    }

    #[inline]
    pub(crate) fn replace(&self, value: Option<Owned>) -> Option<Owned> {
        let value = value.map(|value| ManuallyDrop::new(value).0);
        self.0.replace(value).map(Owned)
    }

    #[inline]
    pub(crate) fn clear(&self) {
        drop(self.take());
    }
}

#[inline]
pub(crate) fn tuple_len(tuple: &Object) -> usize {
    // SAFETY: callers pass tuples only (the interpreter's `kwnames`, or tuples made here).
    unsafe { ffi::PyTuple_GET_SIZE(tuple.as_ptr()) as usize }
}

/// An item of a tuple, which must have as many.
#[inline]
pub(crate) fn tuple_item(tuple: &Object, index: usize) -> &Object {
    debug_assert!(index < tuple_len(tuple));
    // SAFETY: as `tuple_len`; the tuple keeps its items alive.
    unsafe { Object::from_ptr(ffi::PyTuple_GET_ITEM(tuple.as_ptr(), index as isize)) }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear();
    }
}

#[inline]
pub(crate) fn check(result: std::ffi::c_int) -> Res<()> {
    if result < 0 { Err(Raised) } else { Ok(()) }
}

#[inline]
pub(crate) fn truth(result: std::ffi::c_int) -> Res<bool> {
    if result < 0 {
        Err(Raised)
    } else {
        Ok(result != 0)
    }
}
