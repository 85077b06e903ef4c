//! Audit events (`sys.audit`), for what Python's own functions would have raised.

use std::ffi::CStr;

use super::object::check;
use super::private::PySys_Audit;
use super::{Object, Owned, Res};

/// `sys.audit(event, *args)`. With two arguments it is nearly free while there is no hook.
#[inline]
pub(crate) fn audit(event: &CStr, args: &[&Object]) -> Res<()> {
    if let [a, b] = args {
        // SAFETY: C strings, and as many live objects as the format names.
        return check(unsafe {
            PySys_Audit(event.as_ptr(), c"OO".as_ptr(), a.as_ptr(), b.as_ptr())
        });
    }
    let args = Owned::tuple(args)?;
    // SAFETY: C strings, and one live tuple, which are then the arguments.
    check(unsafe { PySys_Audit(event.as_ptr(), c"O".as_ptr(), args.as_ptr()) })
}
