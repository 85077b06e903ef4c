//! Classes that Python's `type` makes of a native base and asyncio's own class.
//!
//! Such a class is an instance of both bases' layouts only in name: the native base has the fields,
//! asyncio's class (written in Python) has none but its instance dict, which the interpreter takes
//! care of.

use std::ffi::CStr;

use pyo3::ffi;

use super::method::Method;
use super::names::import;
use super::special::bind_special;
use super::types::{bind_method, set_type_attribute};
use super::{Object, Owned, Res};

/// Makes the class that programs see, `rondel.<name>`. `described` is the name with the parameters
/// of its constructor; the last of the bases is asyncio's class.
pub(crate) fn make_class(
    described: &str,
    doc: &str,
    bases: &[&Object],
    methods: &[Method],
) -> Res<Owned> {
    let namespace = Owned::dict()?;
    namespace.set_item(c"__slots__", &*Owned::tuple(&[])?)?;
    namespace.set_item(c"__module__", &*Owned::from_str("rondel")?)?;
    // The class keeps the signature of its first docstring.
    let signature = Owned::from_str(&format!("{described}\n--\n\n{doc}"))?;
    namespace.set_item(c"__doc__", &signature)?;
    let name = described.split('(').next().unwrap_or(described);
    if let Some(stock) = bases.last() {
        let members = import("rondel._pickling")?
            .getattr(&*Owned::from_str("members")?)?
            .call(&[stock])?;
        namespace.call_method(&*Owned::from_str("update")?, &[&*members])?;
    }
    // SAFETY: the type of all types lives as long as the interpreter.
    let metatype = unsafe { Object::from_ptr((&raw mut ffi::PyType_Type).cast()) };
    let bases = Owned::tuple(bases)?;
    let class = metatype.call(&[&*Owned::from_str(name)?, &*bases, &*namespace])?;
    set_type_attribute(&class, c"__doc__", &*Owned::from_str(doc)?)?;
    for method in methods {
        // SAFETY: a method's name is a C string.
        let name = unsafe { CStr::from_ptr(method.0.ml_name) };
        if name == c"__aenter__" || name == c"__aexit__" {
            bind_special(&class, method)?;
        } else {
            bind_method(&class, method)?;
        }
    }
    Ok(class)
}
