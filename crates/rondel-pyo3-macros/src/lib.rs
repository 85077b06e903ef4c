//! The attribute macros of the crate `rondel-pyo3`, which exports them.

mod methods;

use proc_macro::TokenStream;
use quote::quote;
use syn::{FnArg, ItemFn, ItemImpl, Pat, ReturnType, parse_macro_input};

/// Makes a function of a Python module from an `async fn`: called from Python it gives a coroutine,
/// which runs the body on the thread of the loop that awaits it. What is in the parentheses goes to
/// PyO3's `#[pyfunction]`, e.g. `signature = (key, *, timeout=None)`.
///
/// The function returns a `PyResult`. Its arguments are owned: they live as long as the coroutine.
#[proc_macro_attribute]
pub fn function(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = proc_macro2::TokenStream::from(options);
    let function = parse_macro_input!(item as ItemFn);
    match expand(&options, function) {
        Ok(tokens) => tokens.into(),
        Err(error) => error.to_compile_error().into(),
    }
}

/// Makes methods of a Python class from an `impl` block, as PyO3's `#[pymethods]` does, in which
/// methods may be `async fn`s: those give coroutines, as with [`macro@function`].
///
/// An async method owns what it works on as long as its coroutine lives. It takes
///
/// - `&self`, of a class that is `frozen`,
/// - `slf: Py<Self>`, of any class: what it borrows of it, it borrows between two awaits,
/// - `cls: Py<PyType>` as a `#[classmethod]`, and nothing as a `#[staticmethod]`.
///
/// What `#[pymethods]` takes beside, methods that are not async and attributes as
/// `#[pyo3(signature = …)]`, is left as it is.
///
/// ```ignore
/// #[rondel_pyo3::methods]
/// impl Client {
///     #[pyo3(signature = (key, *, default=None))]
///     async fn get(&self, key: String, default: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
///         …
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn methods(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = proc_macro2::TokenStream::from(options);
    let block = parse_macro_input!(item as ItemImpl);
    match methods::expand(&options, block) {
        Ok(tokens) => tokens.into(),
        Err(error) => error.to_compile_error().into(),
    }
}

fn expand(
    options: &proc_macro2::TokenStream,
    function: ItemFn,
) -> syn::Result<proc_macro2::TokenStream> {
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
    } = function;
    if sig.asyncness.is_none() {
        return Err(syn::Error::new_spanned(
            sig.fn_token,
            "#[rondel_pyo3::function] takes an async fn",
        ));
    }
    let ReturnType::Type(_, output) = &sig.output else {
        return Err(syn::Error::new_spanned(
            &sig.ident,
            "an async function for Python returns a PyResult",
        ));
    };
    for input in &sig.inputs {
        match input {
            FnArg::Typed(argument) if matches!(*argument.pat, Pat::Ident(_)) => {}
            other => {
                return Err(syn::Error::new_spanned(
                    other,
                    "each argument of an async function for Python has a name",
                ));
            }
        }
    }
    let (name, inputs) = (&sig.ident, &sig.inputs);
    let text = name.to_string().replace("r#", "");
    Ok(quote! {
        #(#attrs)*
        #[::pyo3::pyfunction(#options)]
        #vis fn #name(
            __py: ::pyo3::Python<'_>,
            #inputs
        ) -> ::pyo3::PyResult<::pyo3::Py<::rondel_pyo3::Coroutine>> {
            let future = async move {
                let output: #output = async move #block.await;
                output
            };
            ::rondel_pyo3::coroutine(__py, #text, future)
        }
    })
}
