//! What asyncio's own Python code tells about its behaviour.
//!
//! Patch releases of one version differ, so the version does not tell. A check here looks for a
//! word in the names or constants of one of asyncio's functions. Where the function is gone, or is
//! not written in Python, the check gives what the caller passes as `otherwise`: what the newest
//! known release does. `_rondel.probes()` tells of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::unless_raised;
use super::names::{import, import_from};
use super::{Object, Owned, Res};

/// Whether all checks have found what they look at.
static FOUND: AtomicBool = AtomicBool::new(true);

pub(crate) fn is_found() -> bool {
    FOUND.load(Ordering::Relaxed)
}

/// What `look` gives, or `otherwise` if it raises.
pub(crate) fn look<T>(otherwise: T, look: impl FnOnce() -> Res<T>) -> Res<T> {
    let found = unless_raised(look)?;
    if found.is_none() {
        FOUND.store(false, Ordering::Relaxed);
    }
    Ok(found.unwrap_or(otherwise))
}

/// `class.method.__code__`, of a class of `module`.
pub(crate) fn code(module: &str, class: &str, method: &str) -> Res<Owned> {
    code_of(&*get(&*import_from(module, class)?, method)?)
}

/// `function.__code__`.
pub(crate) fn code_of(function: &Object) -> Res<Owned> {
    get(function, "__code__")
}

/// `object.name`.
pub(crate) fn get(object: &Object, name: &str) -> Res<Owned> {
    object.getattr(&*Owned::from_str(name)?)
}

/// Whether a tuple of a code object, `co_names` or `co_consts`, has `text` in its `repr`.
pub(crate) fn mentions(code: &Object, tuple: &str, text: &str) -> Res<bool> {
    Ok(get(code, tuple)?.repr()?.to_text()?.contains(text))
}

/// The members of a private `Enum` of asyncio's, given by name and value. Where it lacks one, they
/// are those of an `Enum` made here.
pub(crate) fn members<const N: usize>(
    module: &str,
    class: &str,
    expected: [(&str, &str); N],
) -> Res<[Owned; N]> {
    let names = expected.map(|(name, _)| name);
    match stock_members(module, class, names)? {
        Some(members) => Ok(members),
        None => {
            let all = Owned::list()?;
            for (name, value) in expected {
                let (name, value) = (Owned::from_str(name)?, Owned::from_str(value)?);
                all.append(&*Owned::tuple(&[&name, &value])?)?;
            }
            let made = import("enum")?.call_method(
                &*Owned::from_str("Enum")?,
                &[&*Owned::from_str(class)?, &*all],
            )?;
            members_of(&made, names)
        }
    }
}

/// As [`members`]; `None` where asyncio lacks one.
pub(crate) fn stock_members<const N: usize>(
    module: &str,
    class: &str,
    names: [&str; N],
) -> Res<Option<[Owned; N]>> {
    look(None, || {
        let class = get(&*import(module)?, class)?;
        members_of(&class, names).map(Some)
    })
}

fn members_of<const N: usize>(class: &Object, names: [&str; N]) -> Res<[Owned; N]> {
    let mut members = [(); N].map(|()| Owned::none());
    for (member, name) in members.iter_mut().zip(names) {
        *member = get(class, name)?;
    }
    Ok(members)
}
