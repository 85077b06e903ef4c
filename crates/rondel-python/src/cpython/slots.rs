//! Slot functions of types, made of Rust functions that say which class they are for.

/// `unary_slot!(function)`: for `tp_repr`, `am_aiter` and the like, of a
/// `fn(&Native<T>) -> Res<Owned>`.
macro_rules! unary_slot {
    ($function:path) => {{
        unsafe extern "C" fn slot(this: *mut pyo3::ffi::PyObject) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes an instance of the class that has the slot.
            let this = unsafe { $crate::cpython::native::This::this(this) };
            $crate::cpython::error::guard_object(|| $function(this))
        }
        $crate::cpython::types::slot_fn!(slot, pyo3::ffi::unaryfunc)
    }};
}
pub(crate) use unary_slot;

/// `init_slot!(function)`: `tp_init`, of a `fn(&Native<T>, Args<'_>) -> Res<()>`.
macro_rules! init_slot {
    ($function:path) => {{
        unsafe extern "C" fn slot(
            this: *mut pyo3::ffi::PyObject,
            args: *mut pyo3::ffi::PyObject,
            kwargs: *mut pyo3::ffi::PyObject,
        ) -> std::ffi::c_int {
            $crate::cpython::error::guard(-1, || {
                // SAFETY: the interpreter passes an instance of the class that has the slot, a
                // tuple, and a dict or null.
                unsafe {
                    let this = $crate::cpython::native::This::this(this);
                    $crate::cpython::method::with_tuple_and_dict(args, kwargs, |args| {
                        $function(this, args)
                    })?;
                }
                Ok(0)
            })
        }
        $crate::cpython::types::slot_fn!(slot, pyo3::ffi::initproc)
    }};
}
pub(crate) use init_slot;

/// `call_slot!(function)`: `tp_call`, of a `fn(&Native<T>) -> Res<Owned>` that takes no arguments
/// and looks at none.
macro_rules! call_slot {
    ($function:path) => {{
        unsafe extern "C" fn slot(
            this: *mut pyo3::ffi::PyObject,
            _: *mut pyo3::ffi::PyObject,
            _: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes an instance of the class that has the slot.
            let this = unsafe { $crate::cpython::native::This::this(this) };
            $crate::cpython::error::guard_object(|| $function(this))
        }
        $crate::cpython::types::slot_fn!(slot, pyo3::ffi::ternaryfunc)
    }};
}
pub(crate) use call_slot;
