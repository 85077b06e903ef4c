//! `gather`, `wait`, `as_completed` and `shield`: the functions that wait for several futures, or
//! shield one.
//!
//! In asyncio each of them adds a closure to its futures, which is called through a handle. Here a
//! native object watches the futures instead (`future/watch.rs`): it is notified when a future is
//! done, and is queued on the ready ring only if the closure would have an observable effect.
//!
//! | file | what it has |
//! |---|---|
//! | `gather.rs`, `gathering.rs` | `gather`: its children; the future that it returns |
//! | `wait.rs` | `wait` |
//! | `as_completed.rs` | `as_completed` |
//! | `shield.rs` | `shield` |
//! | `awaited_by.rs` | which task awaits which future, as 3.14 and later record it |
//! | `names.rs` | interned names and library objects, and differences between patch releases |

mod as_completed;
pub(crate) mod awaited_by;
mod gather;
mod gathering;
mod names;
mod shield;
mod wait;

use crate::cpython::error::type_error;
use crate::cpython::method::Args;
use crate::cpython::{Object, Owned, Res};

/// Makes the class of gathering futures. Called after `Future` is made and before it gets a
/// metaclass.
pub(crate) fn init_gathering() -> Res<()> {
    gathering::init_type()
}

/// The functions that the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    names::init()?;
    let mut all = vec![
        ("gather", gather::init()?),
        ("wait", wait::init()?),
        ("shield", shield::init()?),
    ];
    all.extend(as_completed::init()?);
    Ok(all)
}

/// Parses the arguments of a function whose required first parameter is its only positional one.
fn parse_one<'a, const N: usize>(
    function: &str,
    parameters: [&str; N],
    args: Args<'a>,
) -> Res<[Option<&'a Object>; N]> {
    let given = args.positional().len();
    if given > 1 {
        let named = args
            .named()
            .map(|(name, _)| name.to_text())
            .collect::<Res<Vec<_>>>()?;
        let only_by_name = |name: &&String| parameters[1..].contains(&name.as_str());
        let extra = match named.iter().filter(only_by_name).count() {
            0 => String::new(),
            1 => " positional arguments (and 1 keyword-only argument)".to_owned(),
            n => format!(" positional arguments (and {n} keyword-only arguments)"),
        };
        return type_error(&format!(
            "{function}() takes 1 positional argument but {given}{extra} were given"
        ));
    }
    args.parse(function, parameters, 1, 1)
}
