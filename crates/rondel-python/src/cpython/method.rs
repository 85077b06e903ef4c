//! Method tables and argument parsing.
//!
//! The macros wrap a Rust function `fn(&Object, …) -> Res<Owned>` in the C function that the
//! interpreter calls, with the panic guard around it. A function whose first parameter is
//! `&Native<T>` is for a class whose instances hold a `T`, and for no other table.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use pyo3::ffi;

use super::direct_call::{self, DirectCall};
use super::error::type_error;
use super::names::Table;
use super::object::{tuple_item, tuple_len};
use super::{Object, Owned, Res, names};

#[derive(Clone, Copy)]
/// An entry of a type's method table, with the vectorcall for the Python function that replaces it.
pub(crate) struct Method(pub(crate) ffi::PyMethodDef, pub(super) Option<DirectCall>);

/// An entry of a type's attribute table.
pub(crate) struct GetSet(pub(crate) ffi::PyGetSetDef);

pub(crate) type NoArgsFn =
    unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject;
pub(crate) type FastFn = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;
pub(crate) type Getter =
    unsafe extern "C" fn(*mut ffi::PyObject, *mut c_void) -> *mut ffi::PyObject;
pub(crate) type Setter =
    unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut c_void) -> std::ffi::c_int;

/// The table's entry. `described` is a name, or a name with its parameters as Python shows them:
/// `cancel(msg=None)`. What it leaves on the heap lives as long as the table.
fn entry(
    described: &CStr,
    otherwise: Option<&str>,
    doc: &CStr,
    function: ffi::PyMethodDefPointer,
    flags: c_int,
) -> Method {
    let described = described.to_string_lossy();
    let (name, parameters) = match described.split_once('(') {
        Some((name, parameters)) => (name, parameters.strip_suffix(')')),
        None => (&*described, otherwise),
    };
    let doc = doc.to_string_lossy();
    // `inspect.signature` reads the first lines, and `__doc__` leaves them out.
    let doc = match parameters {
        Some("") => format!("{name}($self)\n--\n\n{doc}"),
        Some(parameters) => format!("{name}($self, {parameters})\n--\n\n{doc}"),
        None => doc.into_owned(),
    };
    let definition = ffi::PyMethodDef {
        ml_name: lasting(name),
        ml_meth: function,
        ml_flags: flags,
        ml_doc: lasting(&doc),
    };
    Method(definition, None)
}

/// A C string for a table. Neither names nor texts have a NUL in them; should one, it ends there.
fn lasting(text: &str) -> *const c_char {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default().into_raw()
}

pub(crate) fn noargs(name: &CStr, function: NoArgsFn, doc: &CStr) -> Method {
    let function = ffi::PyMethodDefPointer {
        PyCFunction: function,
    };
    entry(name, Some(""), doc, function, ffi::METH_NOARGS)
}

pub(crate) fn onearg(name: &CStr, function: NoArgsFn, doc: &CStr) -> Method {
    let function = ffi::PyMethodDefPointer {
        PyCFunction: function,
    };
    entry(name, Some("object, /"), doc, function, ffi::METH_O)
}

pub(crate) fn fast(name: &CStr, parameters: Option<&str>, function: FastFn, doc: &CStr) -> Method {
    let function = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: function,
    };
    let flags = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    entry(name, parameters, doc, function, flags)
}

/// The module, to which its functions are bound.
static MODULE: Table<Owned> = Table::new();

/// Notes the module, before any function is made.
pub(crate) fn init(module: &Object) {
    MODULE.fill(module.own());
}

/// A function of the module, from a method whose `self` is the module. It is shown as one of the
/// package.
pub(crate) fn function(method: Method) -> Res<Owned> {
    let definition = method.leak();
    let package = Owned::from_str("rondel")?;
    // SAFETY: the definition lives forever, the others are live objects.
    unsafe {
        Owned::steal(ffi::PyCFunction_NewEx(
            definition,
            MODULE.get().as_ptr(),
            package.as_ptr(),
        ))
    }
}

impl Method {
    /// Sets the vectorcall of the Python function that replaces the method.
    pub(crate) fn called_by(mut self, call: DirectCall) -> Self {
        self.1 = Some(call);
        self
    }

    /// Its definition, at a place that lasts.
    pub(super) fn leak(self) -> &'static mut ffi::PyMethodDef {
        let definition = Box::leak(Box::new(self.0));
        direct_call::note(definition, self.1);
        definition
    }

    /// Replaces the wrapper that a slot of the same name would put into the type.
    pub(crate) fn over_slot(mut self) -> Self {
        self.0.ml_flags |= ffi::METH_COEXIST;
        self
    }
}

pub(crate) fn getset(name: &'static CStr, get: Getter, set: Option<Setter>) -> GetSet {
    GetSet(ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set,
        doc: ptr::null(),
        closure: ptr::null_mut(),
    })
}

/// `method!(noargs c"name" function, c"doc")`, `method!(onearg …)`, `method!(fast …)`;
/// `method!(named c"name" ("parameter") …)` is `onearg` for what may also be passed by name. What
/// programs call by `fast` or `onearg` has its parameters behind the name, as `inspect.signature`
/// is to show them: `c"call_soon(callback, *args, context=None)"`.
macro_rules! method {
    (noargs $name:literal $function:path, $doc:literal) => {{
        unsafe extern "C" fn wrapper(
            this: *mut pyo3::ffi::PyObject,
            _: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes a live `self`, of the class that has the method.
            let this = unsafe { $crate::cpython::native::This::this(this) };
            $crate::cpython::error::guard_object(|| $function(this))
        }
        $crate::cpython::method::noargs($name, wrapper, $doc).called_by(
            $crate::cpython::direct_call::direct_call!(call_noargs wrapper),
        )
    }};
    (onearg $name:literal $function:path, $doc:literal) => {{
        unsafe extern "C" fn wrapper(
            this: *mut pyo3::ffi::PyObject,
            arg: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes a live `self`, of the class that has the method, and a
            // live argument.
            let (this, arg) = unsafe {
                (
                    $crate::cpython::native::This::this(this),
                    $crate::cpython::Object::from_ptr(arg),
                )
            };
            $crate::cpython::error::guard_object(|| $function(this, arg))
        }
        $crate::cpython::method::onearg($name, wrapper, $doc).called_by(
            $crate::cpython::direct_call::direct_call!(call_onearg wrapper),
        )
    }};
    (named $name:literal ($parameter:literal) $function:path, $doc:literal) => {{
        $crate::cpython::method::method!(@call $name, Some($parameter), $doc, |this, args| {
            $function(this, args.only($name, $parameter)?)
        })
    }};
    (fast $name:tt $function:path, $doc:literal) => {
        $crate::cpython::method::method!(@call $name, None, $doc, |this, args| $function(this, args))
    };
    (@call $name:expr, $parameters:expr, $doc:literal, |$this:ident, $args:ident| $call:expr) => {{
        unsafe extern "C" fn wrapper(
            this: *mut pyo3::ffi::PyObject,
            args: *const *mut pyo3::ffi::PyObject,
            nargs: pyo3::ffi::Py_ssize_t,
            kwnames: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes a live `self`, of the class that has the method, and a
            // vector as the calling convention has it.
            let ($this, $args) = unsafe {
                (
                    $crate::cpython::native::This::this(this),
                    $crate::cpython::method::Args::new(args, nargs as usize, kwnames),
                )
            };
            $crate::cpython::error::guard_object(|| $call)
        }
        $crate::cpython::method::fast($name, $parameters, wrapper, $doc).called_by(
            $crate::cpython::direct_call::direct_call!(call_fast wrapper),
        )
    }};
}
pub(crate) use method;

/// `attribute!("name" getter)`, `attribute!("name" getter, setter)`. A setter gets `None` for a
/// deletion.
macro_rules! attribute {
    (@get $getter:path) => {{
        unsafe extern "C" fn get(
            this: *mut pyo3::ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter passes a live `self`, of the class that has the method.
            let this = unsafe { $crate::cpython::native::This::this(this) };
            $crate::cpython::error::guard_object(|| $getter(this))
        }
        get
    }};
    ($name:literal $getter:path) => {
        $crate::cpython::method::getset($name, $crate::cpython::method::attribute!(@get $getter), None)
    };
    ($name:literal $getter:path, $setter:path) => {{
        unsafe extern "C" fn set(
            this: *mut pyo3::ffi::PyObject,
            value: *mut pyo3::ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            // SAFETY: the interpreter passes a live `self`, of the class that has the attribute,
            // and a live value or null.
            let (this, value) = unsafe {
                (
                    $crate::cpython::native::This::this(this),
                    $crate::cpython::Object::from_nullable(value),
                )
            };
            $crate::cpython::error::guard(-1, || $setter(this, value).map(|()| 0))
        }
        $crate::cpython::method::getset($name, $crate::cpython::method::attribute!(@get $getter), Some(set))
    }};
}
pub(crate) use attribute;

/// Python's message for parameters that got no value.
#[cold]
fn missing_arguments<T>(function: &str, missing: &[&str]) -> Res<T> {
    let quoted: Vec<_> = missing.iter().map(|name| format!("'{name}'")).collect();
    let list = match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, [one])) => format!("{one} and {last}"),
        Some((last, more)) => format!("{}, and {last}", more.join(", ")),
        None => String::new(),
    };
    let plural = if missing.len() == 1 { "" } else { "s" };
    type_error(&format!(
        "{function}() missing {} required positional argument{plural}: {list}",
        missing.len()
    ))
}

/// The arguments of one call: positional ones, then the values of those that `kwnames` names.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    items: &'a [&'a Object],
    positional: usize,
    names: Option<&'a Object>,
}

impl<'a> Args<'a> {
    /// # Safety
    /// As the vectorcall protocol has it: `nargs` objects, and as many more as `kwnames` has names.
    #[inline]
    pub(crate) unsafe fn new(
        args: *const *mut ffi::PyObject,
        nargs: usize,
        kwnames: *mut ffi::PyObject,
    ) -> Self {
        // SAFETY: guaranteed by the caller; `&Object` is a non-null pointer to an object.
        unsafe {
            let names = Object::from_nullable(kwnames);
            let len = nargs + names.map_or(0, tuple_len);
            let items = if len == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(args.cast::<&Object>(), len)
            };
            Self {
                items,
                positional: nargs,
                names,
            }
        }
    }

    /// All arguments, how many of them are positional, and the names of the others.
    pub(super) fn parts(&self) -> (&'a [&'a Object], usize, Option<&'a Object>) {
        (self.items, self.positional, self.names)
    }

    /// The arguments of a call of the unbound method: the same, behind `this`; and the names of the
    /// last ones.
    pub(crate) fn behind(&self, this: &'a Object) -> (Vec<&'a Object>, Option<&'a Object>) {
        let mut items = Vec::with_capacity(self.items.len() + 1);
        items.push(this);
        items.extend(self.items);
        (items, self.names)
    }

    /// The positional arguments.
    #[inline]
    pub(crate) fn positional(&self) -> &'a [&'a Object] {
        &self.items[..self.positional]
    }

    /// Whether any argument was named.
    #[inline]
    pub(crate) fn has_named(&self) -> bool {
        self.names.is_some()
    }

    /// The named arguments.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'a Object, &'a Object)> + use<'a> {
        let (names, values) = (self.names, &self.items[self.positional..]);
        values
            .iter()
            .enumerate()
            .filter_map(move |(index, value)| Some((tuple_item(names?, index), *value)))
    }

    /// The one keyword that a function with `*args` takes, as in
    /// `call_soon(callback, *args, context=None)`.
    #[inline]
    pub(crate) fn only_keyword(
        &self,
        function: &str,
        keyword: &'static Object,
    ) -> Res<Option<&'a Object>> {
        let Some(names) = self.names else {
            return Ok(None);
        };
        let mut found = None;
        for index in 0..tuple_len(names) {
            let name = tuple_item(names, index);
            if !name.is(keyword) && !name.equals(keyword)? {
                let name = name.to_text()?;
                return type_error(&format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            }
            found = Some(self.items[self.positional + index]);
        }
        Ok(found)
    }

    /// The argument of a function that has one parameter, passed by position or by name.
    #[inline]
    pub(crate) fn only(&self, function: &CStr, parameter: &str) -> Res<&'a Object> {
        match self.items {
            [value] if self.names.is_none() => Ok(value),
            _ => {
                let [value] = self.parse(&function.to_string_lossy(), [parameter], 1, 1)?;
                Ok(value.unwrap_or(super::none()))
            }
        }
    }

    /// The arguments of `function(first, …, *args, context=None)`, whose first parameters may be
    /// passed by name: the first ones, the further ones, the context.
    #[inline]
    #[allow(clippy::type_complexity, reason = "three things are asked for")]
    pub(crate) fn of_call<const N: usize>(
        &self,
        function: &str,
        first: [&str; N],
    ) -> Res<([&'a Object; N], &'a [&'a Object], Option<&'a Object>)> {
        if let (None, Some((first, rest))) = (self.names, self.positional().split_first_chunk()) {
            return Ok((*first, rest, None));
        }
        self.of_call_by_name(function, first)
    }

    #[allow(clippy::type_complexity, reason = "as `of_call`")]
    fn of_call_by_name<const N: usize>(
        &self,
        function: &str,
        first: [&str; N],
    ) -> Res<([&'a Object; N], &'a [&'a Object], Option<&'a Object>)> {
        let mut context = None;
        let mut values = [None; N];
        let by_position = self.positional.min(N);
        for (value, arg) in values.iter_mut().zip(self.positional()) {
            *value = Some(*arg);
        }
        for (name, value) in self.named() {
            if name.is(&names().context) {
                context = Some(value);
                continue;
            }
            let name = name.to_text()?;
            match first.iter().position(|known| *known == name) {
                Some(index) if values[index].is_none() => values[index] = Some(value),
                Some(_) => {
                    return type_error(&format!(
                        "{function}() got multiple values for argument '{name}'"
                    ));
                }
                None if name == "context" => context = Some(value),
                None => {
                    return type_error(&format!(
                        "{function}() got an unexpected keyword argument '{name}'"
                    ));
                }
            }
        }
        let missing: Vec<_> = (0..N)
            .filter(|&index| values[index].is_none())
            .map(|index| first[index])
            .collect();
        if !missing.is_empty() {
            return missing_arguments(function, &missing);
        }
        Ok((
            values.map(|value| value.unwrap_or(super::none())),
            &self.positional()[by_position..],
            context,
        ))
    }

    /// Assigns the arguments to parameters: the first `positional` of `names` may be given by
    /// position, the first `required` must be given.
    pub(crate) fn parse<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        positional: usize,
        required: usize,
    ) -> Res<[Option<&'a Object>; N]> {
        self.parse_behind(1, function, names, positional, required)
    }

    /// As [`parse`](Self::parse), of a function of a module: its messages do not count a `self`.
    pub(crate) fn parse_function<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        positional: usize,
        required: usize,
    ) -> Res<[Option<&'a Object>; N]> {
        self.parse_behind(0, function, names, positional, required)
    }

    fn parse_behind<const N: usize>(
        &self,
        bound: usize,
        function: &str,
        names: [&str; N],
        positional: usize,
        required: usize,
    ) -> Res<[Option<&'a Object>; N]> {
        let mut values = [None; N];
        if self.positional > positional {
            let (least, given) = (required.min(positional), self.positional);
            let (takes, plural) = if least == positional {
                (
                    format!("takes {} positional argument", positional + bound),
                    positional + bound != 1,
                )
            } else {
                (
                    format!(
                        "takes from {} to {} positional argument",
                        least + bound,
                        positional + bound
                    ),
                    true,
                )
            };
            let plural = if plural { "s" } else { "" };
            let were = if given + bound == 1 { "was" } else { "were" };
            return type_error(&format!(
                "{function}() {takes}{plural} but {} {were} given",
                given + bound
            ));
        }
        for (value, arg) in values.iter_mut().zip(self.positional()) {
            *value = Some(*arg);
        }
        for (name, value) in self.named() {
            let name = name.to_text()?;
            match names.iter().position(|known| *known == name) {
                Some(index) if values[index].is_none() => values[index] = Some(value),
                Some(_) => {
                    return type_error(&format!(
                        "{function}() got multiple values for argument '{name}'"
                    ));
                }
                None => {
                    return type_error(&format!(
                        "{function}() got an unexpected keyword argument '{name}'"
                    ));
                }
            }
        }
        let missing: Vec<_> = (0..required)
            .filter(|&index| values[index].is_none())
            .map(|index| names[index])
            .collect();
        if !missing.is_empty() {
            return missing_arguments(function, &missing);
        }
        Ok(values)
    }
}

/// Arguments of a `tp_new` or `tp_init`: a tuple and a dict, as one vector.
///
/// # Safety
/// `args` is a tuple and `kwargs` a dict or null, as the slot's contract has it.
pub(crate) unsafe fn with_tuple_and_dict<R>(
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
    body: impl FnOnce(Args<'_>) -> Res<R>,
) -> Res<R> {
    // SAFETY: guaranteed by the caller; both keep their items alive while the call lasts.
    unsafe {
        let args = Object::from_ptr(args);
        let mut items: Vec<&Object> = (0..tuple_len(args))
            .map(|index| tuple_item(args, index))
            .collect();
        let positional = items.len();
        let mut names: Vec<&Object> = Vec::new();
        if !kwargs.is_null() {
            let (mut position, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
            while ffi::PyDict_Next(kwargs, &mut position, &mut key, &mut value) != 0 {
                names.push(Object::from_ptr(key));
                items.push(Object::from_ptr(value));
            }
        }
        let names = match names.is_empty() {
            true => None,
            false => Some(Owned::tuple(&names)?),
        };
        body(Args {
            items: &items,
            positional,
            names: names.as_deref(),
        })
    }
}
