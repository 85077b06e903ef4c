//! Heap types whose fields stand behind those of their base class.
//!
//! `rondel.Future` must be an `_asyncio.Future`, a transport an `asyncio.Transport`, and so on; but
//! their fields are of no use to us. So each of our types derives from asyncio's type, leaves the
//! base's part of the object zeroed, overrides every slot and method, and has its own fields behind
//! it. Their offset is known at import: it is the base's `tp_basicsize`, which differs between
//! versions and builds.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::direct_call;
use super::method::{GetSet, Method};
use super::names::import;
use super::object::{check, tuple_item, tuple_len};
use super::{Object, Owned, Res};

/// Describes a type to be made.
pub(crate) struct TypeBuilder {
    name: &'static CStr,
    bases: Vec<Owned>,
    basicsize: usize,
    flags: u64,
    slots: Vec<ffi::PyType_Slot>,
    methods: Vec<Method>,
    getset: Vec<GetSet>,
    members: Vec<ffi::PyMemberDef>,
}

impl TypeBuilder {
    /// A type whose instances have `T` behind `offset` bytes. `name` is qualified by the module.
    pub(crate) fn new<T>(name: &'static CStr, base: Option<&Object>, offset: usize) -> Self {
        Self {
            name,
            bases: base.into_iter().map(Object::own).collect(),
            basicsize: offset + size_of::<T>(),
            flags: ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC,
            slots: Vec::new(),
            methods: Vec::new(),
            getset: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Several base classes; the first one determines the layout and the offset.
    pub(crate) fn bases(mut self, bases: &[&Object]) -> Self {
        self.bases = bases.iter().map(|base| base.own()).collect();
        self
    }

    /// May be subclassed in Python.
    pub(crate) fn subclassable(mut self) -> Self {
        self.flags |= ffi::Py_TPFLAGS_BASETYPE;
        self
    }

    /// Has no constructor for Python code.
    pub(crate) fn not_instantiable(mut self) -> Self {
        self.flags |= ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
        self
    }

    /// The interpreter calls instances that stand in a class with the object in front, rather than
    /// binding them first.
    #[cfg(not(Py_3_12))]
    pub(crate) fn method_descriptor(mut self) -> Self {
        self.flags |= ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
        self
    }

    /// Fills a slot with a C function of the slot's signature.
    pub(crate) fn slot(mut self, slot: c_int, function: *mut c_void) -> Self {
        self.slots.push(ffi::PyType_Slot {
            slot,
            pfunc: function,
        });
        self
    }

    pub(crate) fn doc(self, doc: &'static CStr) -> Self {
        self.slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast())
    }

    pub(crate) fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods.extend(methods);
        self
    }

    pub(crate) fn getset(mut self, getset: impl IntoIterator<Item = GetSet>) -> Self {
        self.getset.extend(getset);
        self
    }

    /// The offset of a `PyObject *` field for the instance's dict, which is made when it is needed,
    /// as `__dict__` is.
    pub(crate) fn dict(self, offset: usize) -> Self {
        self.member(c"__dictoffset__", offset)
            .getset([GetSet(ffi::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(ffi::PyObject_GenericGetDict),
                set: Some(ffi::PyObject_GenericSetDict),
                doc: ptr::null(),
                closure: ptr::null_mut(),
            })])
    }

    /// The offset of a `PyObject *` field for weak references, if the base has none.
    pub(crate) fn weaklist(self, offset: usize) -> Self {
        self.member(c"__weaklistoffset__", offset)
    }

    fn member(mut self, name: &'static CStr, offset: usize) -> Self {
        self.members.push(ffi::PyMemberDef {
            name: name.as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset as isize,
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        });
        self
    }

    /// Instances are called through the `vectorcallfunc` that they have at this offset.
    pub(crate) fn vectorcall(mut self, offset: usize) -> Self {
        self.flags |= ffi::Py_TPFLAGS_HAVE_VECTORCALL;
        self.members.push(ffi::PyMemberDef {
            name: c"__vectorcalloffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset as isize,
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        });
        self.slot(
            ffi::Py_tp_call,
            slot_fn!(ffi::PyVectorcall_Call, ffi::ternaryfunc),
        )
    }

    /// Makes the type. Its tables live as long as the process.
    pub(crate) fn build(mut self) -> Res<Owned> {
        // SAFETY: an all-zero entry ends each of these tables.
        let end_of_methods: ffi::PyMethodDef = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let end_of_getset: ffi::PyGetSetDef = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let end_of_members: ffi::PyMemberDef = unsafe { std::mem::zeroed() };
        let mut methods: Vec<_> = self.methods.iter().map(|method| method.0).collect();
        methods.push(end_of_methods);
        let methods = Box::leak(methods.into_boxed_slice());
        for (definition, method) in methods.iter().zip(&self.methods) {
            direct_call::note(definition, method.1);
        }
        let mut getset: Vec<_> = self.getset.iter().map(|getset| getset.0).collect();
        getset.push(end_of_getset);
        self.slots.push(ffi::PyType_Slot {
            slot: ffi::Py_tp_methods,
            pfunc: methods.as_mut_ptr().cast(),
        });
        self.slots.push(ffi::PyType_Slot {
            slot: ffi::Py_tp_getset,
            pfunc: Box::leak(getset.into_boxed_slice()).as_mut_ptr().cast(),
        });
        if !self.members.is_empty() {
            self.members.push(end_of_members);
            self.slots.push(ffi::PyType_Slot {
                slot: ffi::Py_tp_members,
                pfunc: Box::leak(self.members.into_boxed_slice())
                    .as_mut_ptr()
                    .cast(),
            });
        }
        self.slots.push(ffi::PyType_Slot {
            slot: 0,
            pfunc: ptr::null_mut(),
        });
        let mut spec = ffi::PyType_Spec {
            name: self.name.as_ptr(),
            basicsize: self.basicsize as c_int,
            itemsize: 0,
            flags: self.flags as u32,
            slots: self.slots.as_mut_ptr(),
        };
        let bases: Vec<&Object> = self.bases.iter().map(|base| &**base).collect();
        let bases = match &bases[..] {
            [] => None,
            bases => Some(Owned::tuple(bases)?),
        };
        // SAFETY: the spec is complete, and its tables are leaked on purpose.
        unsafe {
            Owned::steal(ffi::PyType_FromSpecWithBases(
                &mut spec,
                bases.as_deref().map_or(ptr::null_mut(), Object::as_ptr),
            ))
        }
    }
}

impl Object {
    /// `tp_basicsize`, for a type.
    pub(crate) fn basicsize(&self) -> usize {
        debug_assert!(self.is_type());
        // SAFETY: callers pass types only.
        unsafe { (*self.as_ptr().cast::<ffi::PyTypeObject>()).tp_basicsize as usize }
    }

    /// Whether this is a class of those that derive from one of ours, or that one.
    pub(crate) fn derives_from(&self, class: &AtomicPtr<ffi::PyTypeObject>) -> bool {
        // SAFETY: live types: this one is looked at only if it is one, the other one was made at
        // import.
        self.is_type()
            && unsafe {
                ffi::PyType_IsSubtype(self.as_ptr().cast(), class.load(Ordering::Relaxed)) != 0
            }
    }

    /// From now on the class's attributes cannot be set, nor its instances get another class: as
    /// with asyncio's native classes.
    pub(crate) fn make_immutable(&self) {
        let class = self.as_type_ptr();
        // SAFETY: a live type that was made by the caller, and which no other thread knows yet.
        unsafe {
            #[cfg(not(Py_GIL_DISABLED))]
            {
                (*class).tp_flags |= ffi::Py_TPFLAGS_IMMUTABLETYPE;
            }
            #[cfg(Py_GIL_DISABLED)]
            (*class)
                .tp_flags
                .fetch_or(ffi::Py_TPFLAGS_IMMUTABLETYPE, Ordering::Relaxed);
        }
    }

    /// This object as a type pointer, for a type.
    pub(crate) fn as_type_ptr(&self) -> *mut ffi::PyTypeObject {
        debug_assert!(self.is_type());
        self.as_ptr().cast()
    }
}

/// A function pointer as a slot's value.
macro_rules! slot_fn {
    ($function:expr, $signature:ty) => {{
        let function: $signature = $function;
        function as *mut std::ffi::c_void
    }};
}
pub(crate) use slot_fn;

/// A fresh instance: zeroed behind the header, with one reference, tracked by the collector.
///
/// # Safety
/// All-zero bytes are a valid state of the type's fields.
pub(crate) unsafe fn allocate(class: *mut ffi::PyTypeObject) -> Res<Owned> {
    // SAFETY: a live, ready type; tp_alloc is never null in one.
    unsafe {
        match (*class).tp_alloc {
            Some(alloc) => Owned::steal(alloc(class, 0)),
            None => Owned::steal(ffi::PyType_GenericAlloc(class, 0)),
        }
    }
}

/// The last step of a `tp_dealloc`: frees the memory, and releases the reference to the type.
///
/// # Safety
/// `object` has no references left, is untracked, and owns nothing any more.
pub(crate) unsafe fn free(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let class = ffi::Py_TYPE(object);
        match (*class).tp_free {
            Some(free) => free(object.cast()),
            None => ffi::PyObject_GC_Del(object.cast()),
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// Whether the finalizer of an object has not run yet. An object whose finalizer has run must not
/// be reused from a freelist, as its finalizer would not run again.
///
/// # Safety
/// `object` is of a collected type.
#[inline]
pub(crate) unsafe fn is_fresh(object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    unsafe { ffi::PyObject_GC_IsFinalized(object) == 0 }
}

/// Weak references to a dying object are cleared and their callbacks run.
///
/// # Safety
/// `object` is in its `tp_dealloc`.
#[inline]
pub(crate) unsafe fn clear_weakrefs(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if has_weakrefs(Object::from_ptr(object)) {
            ffi::PyObject_ClearWeakRefs(object);
        }
    }
}

/// Whether there are weak references to an object.
#[inline]
pub(crate) fn has_weakrefs(object: &Object) -> bool {
    // SAFETY: a live object; the offset is that of a `PyObject *` in it, or (from 3.12 on, then
    // negative) before it.
    unsafe {
        let offset = (*object.type_ptr()).tp_weaklistoffset;
        let list = object.as_ptr().byte_offset(offset);
        offset != 0 && !(*list.cast::<*mut ffi::PyObject>()).is_null()
    }
}

/// Makes `issubclass(subclass, class)` and `isinstance` true, though the classes derive from
/// different bases. Called once for a class.
///
/// `rondel.Task` derives from `_asyncio.Task` and `rondel.Future` from `_asyncio.Future`; a class
/// can't have both of these layouts. The same goes for the classes of handles. So `class` becomes
/// an abstract base class, with the others registered.
pub(crate) fn register_subclasses(class: &Object, subclasses: &[&Object]) -> Res<()> {
    let get = |module: &str, name: &str| import(module)?.getattr(&*Owned::from_str(name)?);
    let meta = get("abc", "ABCMeta")?;
    // SAFETY: live types; ABCMeta adds nothing to the layout of `type`. The type holds a reference
    // to its class from now on, as to `type` before, which is no heap type and is not counted.
    unsafe { (*class.as_ptr()).ob_type = meta.into_ptr().cast() };
    get("_abc", "_abc_init")?.call(&[class])?;
    let register = Owned::from_str("register")?;
    for subclass in subclasses {
        class.call_method(&register, &[subclass])?;
    }
    Ok(())
}

/// Makes a class a subclass of asyncio's class, whose layout is different and which is written in
/// Python. In the MRO our class comes first. `__base__` stays the class that determines the layout.
/// Called once, before the class is published.
pub(crate) fn derive_from(class: &Object, stock: &Object) -> Res<()> {
    let own = class.as_type_ptr();
    let address = Owned::from_i64(own as i64)?;
    // SAFETY: live types; nobody has looked anything up by the tuples that are replaced, as both
    // are of a new class. A class that was changed tells those in its dict of subclasses, by
    // address; theirs is made as the interpreter makes it.
    unsafe {
        let theirs = Object::from_ptr((*stock.as_type_ptr()).tp_mro);
        let inherited = (0..tuple_len(theirs)).map(|index| tuple_item(theirs, index));
        let order: Vec<&Object> = std::iter::once(class).chain(inherited).collect();
        let (order, bases) = (Owned::tuple(&order)?, Owned::tuple(&[stock])?);
        let reference = Owned::steal(ffi::PyWeakref_NewRef(class.as_ptr(), ptr::null_mut()))?;
        let subclasses = &raw mut (*stock.as_type_ptr()).tp_subclasses;
        if (*subclasses).is_null() {
            *subclasses = Owned::dict()?.into_ptr();
        }
        Object::from_ptr(*subclasses).set(&address, &reference)?;
        drop(Owned::steal(std::mem::replace(
            &mut (*own).tp_mro,
            order.into_ptr(),
        )));
        drop(Owned::steal(std::mem::replace(
            &mut (*own).tp_bases,
            bases.into_ptr(),
        )));
        ffi::PyType_Modified(own);
    }
    Ok(())
}

/// Takes a slot's descriptor out of a type: the interpreter has the slot, and programs find no such
/// attribute. Subclasses that Python makes don't inherit the slot then.
pub(crate) fn hide_slot(class: &Object, name: &str) -> Res<()> {
    debug_assert!(class.is_type());
    // SAFETY: a live heap type's own dict and a live key; the interpreter is told that the type has
    // changed.
    unsafe {
        let namespace = super::function::namespace_of(class.as_type_ptr())?;
        check(ffi::PyDict_DelItem(
            namespace.as_ptr(),
            Owned::from_str(name)?.as_ptr(),
        ))?;
        ffi::PyType_Modified(class.as_type_ptr());
    }
    Ok(())
}

/// Replaces `type.attribute`, e.g. after the type was made.
pub(crate) fn set_type_attribute(class: &Object, name: &CStr, value: &Object) -> Res<()> {
    // SAFETY: live objects and a NUL-terminated name.
    check(unsafe { ffi::PyObject_SetAttrString(class.as_ptr(), name.as_ptr(), value.as_ptr()) })
}

/// Puts a method into a class that Python made. The interpreter calls a method directly only if the
/// object is exactly of the class that the method's descriptor names, so a subclass that is to be
/// fast needs descriptors of its own.
pub(crate) fn bind_method(class: &Object, method: &Method) -> Res<()> {
    debug_assert!(class.is_type());
    let definition = method.leak();
    // SAFETY: a live type; the definition lives forever, and its name is a C string.
    unsafe {
        let descriptor = Owned::steal(ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))?;
        check(ffi::PyObject_SetAttrString(
            class.as_ptr(),
            definition.ml_name,
            descriptor.as_ptr(),
        ))
    }
}

/// Puts an attribute into a class that Python made.
pub(crate) fn bind_attribute(class: &Object, attribute: &GetSet) -> Res<()> {
    debug_assert!(class.is_type());
    let definition = Box::leak(Box::new(attribute.0));
    // SAFETY: a live type; the definition lives forever, and its name is a C string.
    unsafe {
        let descriptor = Owned::steal(ffi::PyDescr_NewGetSet(class.as_type_ptr(), definition))?;
        check(ffi::PyObject_SetAttrString(
            class.as_ptr(),
            definition.name,
            descriptor.as_ptr(),
        ))
    }
}
