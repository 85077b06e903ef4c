//! Native classes, and references to their instances whose type says so.
//!
//! An instance is an [`Object`] with a struct of ours behind the header, or behind what the base
//! class has ([`Fields`]). A reference of type `&Native<T>` says that the object is such an
//! instance: it derefs to the struct, and functions that take it need no promise of their callers.
//! It comes from a test of the object's class ([`Object::exact`], [`Object::instance`]), or from
//! the interpreter, which calls a method with instances of its class only (`method!`,
//! `attribute!`).

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;

use super::{Object, Owned, Slot};

/// What the instances of a native class hold.
///
/// # Safety
/// In each instance there is a valid `Self` at [`offset`](Self::offset), from before anyone sees it
/// until it dies.
pub(crate) unsafe trait Fields: Sized + 'static {
    /// Where the fields stand in an instance, in bytes.
    #[inline]
    fn offset() -> usize {
        size_of::<ffi::PyObject>()
    }

    /// The fields of an instance, which `object` must be.
    #[inline]
    fn of(object: &Object) -> &Self {
        // SAFETY: guaranteed by the trait, and by the caller.
        unsafe { &*object.as_ptr().byte_add(Self::offset()).cast::<Self>() }
    }
}

/// A native class that objects can be asked about.
///
/// # Safety
/// The instances of [`class`](Self::class), and of classes derived from it, hold `Self` as
/// [`Fields`] says. So do those of the further classes that an implementation of
/// [`is_instance`](Self::is_instance) or [`is_exact`](Self::is_exact) accepts.
pub(crate) unsafe trait NativeClass: Fields {
    /// The class, known from import on.
    fn class() -> &'static Class;

    /// Whether an object is of the class itself.
    #[inline]
    fn is_exact(object: &Object) -> bool {
        Self::class().is_exact(object)
    }

    /// Whether an object is of the class or of one derived from it.
    #[inline]
    fn is_instance(object: &Object) -> bool {
        Self::class().is_instance(object)
    }
}

/// The place where a native class is kept. It is filled once, at import, and the class lives
/// forever.
pub(crate) struct Class {
    class: AtomicPtr<ffi::PyTypeObject>,
    offset: AtomicUsize,
}

impl Class {
    pub(crate) const fn new() -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            offset: AtomicUsize::new(0),
        }
    }

    /// Notes where the fields stand in instances, for a class whose base is known at import only.
    pub(crate) fn set_offset(&self, offset: usize) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// What [`set_offset`](Self::set_offset) noted, in bytes.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.offset.load(Ordering::Relaxed)
    }

    /// Notes the class.
    pub(crate) fn set(&self, class: &Object) {
        debug_assert!(class.is_type());
        self.class
            .store(class.own().into_ptr().cast(), Ordering::Relaxed);
    }

    /// The class, as a pointer to compare; null before import.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyTypeObject {
        self.class.load(Ordering::Relaxed)
    }

    /// The class as an object, from import on.
    pub(crate) fn object(&self) -> &'static Object {
        // SAFETY: a class that was noted lives forever.
        unsafe { Object::from_ptr(self.as_ptr().cast()) }
    }

    /// Whether an object is of this class itself.
    #[inline]
    pub(crate) fn is_exact(&self, object: &Object) -> bool {
        ptr::eq(object.type_ptr(), self.as_ptr())
    }

    /// Whether an object is of this class or of one derived from it.
    #[inline]
    pub(crate) fn is_instance(&self, object: &Object) -> bool {
        // SAFETY: an object's type is live, and so is a class that was noted.
        self.is_exact(object)
            || unsafe { ffi::PyType_IsSubtype(object.type_ptr(), self.as_ptr()) != 0 }
    }
}

impl Class {
    /// Whether an object is a class that is this one, or derived from it.
    pub(crate) fn is_base_of(&self, class: &Object) -> bool {
        // SAFETY: both are live types: the one is looked at only if it is one.
        class.is_type()
            && unsafe { ffi::PyType_IsSubtype(class.as_ptr().cast(), self.as_ptr()) != 0 }
    }
}

/// An object that holds `T`: an instance of one of our classes. Only ever seen as `&Native<T>`.
#[repr(transparent)]
pub(crate) struct Native<T> {
    object: Object,
    fields: PhantomData<T>,
}

impl<T: Fields> Native<T> {
    /// # Safety
    /// `ptr` is a live object that holds a `T`, and stays alive for `'a`.
    #[inline]
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut ffi::PyObject) -> &'a Self {
        debug_assert!(!ptr.is_null());
        // SAFETY: guaranteed by the caller; the type is transparent over `Object`, which is so over
        // `PyObject`.
        unsafe { &*ptr.cast::<Self>() }
    }

    /// The object.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.object.as_ptr()
    }

    /// A new reference.
    #[inline]
    pub(crate) fn own(&self) -> OwnedNative<T> {
        OwnedNative {
            object: self.object.own(),
            fields: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn is(&self, other: &Object) -> bool {
        self.object.is(other)
    }
}

impl<T: Fields> Deref for Native<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the object holds a `T` at this place, as the type says.
        unsafe { &*self.as_ptr().byte_add(T::offset()).cast::<T>() }
    }
}

/// A counted reference to an object that holds `T`.
#[repr(transparent)]
pub(crate) struct OwnedNative<T> {
    object: Owned,
    fields: PhantomData<T>,
}

impl<T: Fields> OwnedNative<T> {
    /// # Safety
    /// The object holds a `T`.
    #[inline]
    pub(crate) unsafe fn new(object: Owned) -> Self {
        Self {
            object,
            fields: PhantomData,
        }
    }

    /// The reference, as one to any object.
    #[inline]
    pub(crate) fn into_owned(self) -> Owned {
        self.object
    }
}

impl<T: Fields> Deref for OwnedNative<T> {
    type Target = Native<T>;
    #[inline]
    fn deref(&self) -> &Native<T> {
        // SAFETY: the reference keeps the object alive, and it holds a `T`, as the type says.
        unsafe { Native::from_ptr(self.object.as_ptr()) }
    }
}

impl<T: Fields> Clone for OwnedNative<T> {
    #[inline]
    fn clone(&self) -> Self {
        self.own()
    }
}

impl Object {
    /// This object as an instance of `T`'s class itself.
    #[inline]
    pub(crate) fn exact<T: NativeClass>(&self) -> Option<&Native<T>> {
        // SAFETY: the class was compared.
        T::is_exact(self).then(|| unsafe { self.known() })
    }

    /// This object as an instance of `T`'s class, or of one derived from it.
    #[inline]
    pub(crate) fn instance<T: NativeClass>(&self) -> Option<&Native<T>> {
        // SAFETY: the class was compared.
        T::is_instance(self).then(|| unsafe { self.known() })
    }

    /// This object as one that holds a `T`, where that is known already.
    ///
    /// # Safety
    /// It does.
    #[inline]
    pub(crate) unsafe fn known<T: Fields>(&self) -> &Native<T> {
        // SAFETY: guaranteed by the caller.
        unsafe { Native::from_ptr(self.as_ptr()) }
    }
}

impl Owned {
    /// This reference as one to an instance of `T`'s class itself; any other is given back.
    #[inline]
    pub(crate) fn into_exact<T: NativeClass>(self) -> Result<OwnedNative<T>, Self> {
        match T::is_exact(&self) {
            // SAFETY: the class was compared.
            true => Ok(unsafe { OwnedNative::new(self) }),
            false => Err(self),
        }
    }
}

/// A field that holds a reference to an object that holds `T`, or nothing. All zero bytes are a
/// valid empty one. As with [`Slot::get`], what is borrowed from it lasts until the slot is filled
/// anew.
#[repr(transparent)]
pub(crate) struct NativeSlot<T> {
    slot: Slot,
    fields: PhantomData<T>,
}

impl<T> Default for NativeSlot<T> {
    fn default() -> Self {
        Self {
            slot: Slot::default(),
            fields: PhantomData,
        }
    }
}

impl<T: Fields> NativeSlot<T> {
    #[inline]
    pub(crate) fn get(&self) -> Option<&Native<T>> {
        // SAFETY: only `set` fills the slot, with an object that holds a `T`.
        self.slot.get().map(|object| unsafe { object.known() })
    }

    #[inline]
    pub(crate) fn cloned(&self) -> Option<OwnedNative<T>> {
        self.get().map(Native::own)
    }

    /// Fills the slot; what it held before is released after that.
    #[inline]
    pub(crate) fn set(&self, value: OwnedNative<T>) {
        self.slot.set(value.into_owned());
    }

    /// Fills a slot that is known to be empty, in what was made just now.
    #[inline]
    pub(crate) fn fill(&self, value: OwnedNative<T>) {
        self.slot.fill(value.into_owned());
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<OwnedNative<T>> {
        // SAFETY: as in `get`.
        self.slot
            .take()
            .map(|object| unsafe { OwnedNative::new(object) })
    }

    #[inline]
    pub(crate) fn clear(&self) {
        self.slot.clear();
    }

    /// The slot, for the collector and for those who only compare or release what is in it. Not to
    /// be filled.
    #[inline]
    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }
}

/// How a method takes its `self`: as any object, or as an instance of the class that has the
/// method.
pub(crate) trait This {
    /// # Safety
    /// `ptr` is the live `self` of a method of the class that [`NativeClass`] says, if the type
    /// says one.
    unsafe fn this<'a>(ptr: *mut ffi::PyObject) -> &'a Self;
}

impl This for Object {
    #[inline]
    unsafe fn this<'a>(ptr: *mut ffi::PyObject) -> &'a Self {
        // SAFETY: guaranteed by the caller.
        unsafe { Object::from_ptr(ptr) }
    }
}

impl<T: NativeClass> This for Native<T> {
    #[inline]
    unsafe fn this<'a>(ptr: *mut ffi::PyObject) -> &'a Self {
        // SAFETY: guaranteed by the caller: the interpreter has compared the class.
        unsafe {
            debug_assert!(T::is_instance(Object::from_ptr(ptr)));
            Native::from_ptr(ptr)
        }
    }
}
