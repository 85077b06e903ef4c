//! `#[rondel_pyo3::methods]`: methods of a class of Python's that are `async fn`s.
//!
//! PyO3 gets a method that is not `async` for each, with an owned receiver. The body becomes an
//! `async fn` of its own, so that `self` and `Self` mean in it what they always mean.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{
    Attribute, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Pat, ReturnType, Signature, Type,
};

/// The methods for PyO3, and the bodies of those that were `async`.
pub(crate) fn expand(options: &TokenStream, mut block: ItemImpl) -> syn::Result<TokenStream> {
    if let Some((_, of, _)) = &block.trait_ {
        return Err(syn::Error::new_spanned(
            of,
            "#[rondel_pyo3::methods] takes the methods of a class, not of a trait",
        ));
    }
    let class = class_name(&block.self_ty)?;
    let mut bodies = Vec::new();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item
            && method.sig.asyncness.is_some()
        {
            bodies.push(split(method, &class)?);
        }
    }
    let (generics, of) = (&block.generics, &block.self_ty);
    Ok(quote! {
        #[::pyo3::pymethods(#options)]
        #block

        #[doc(hidden)]
        impl #generics #of {
            #(#bodies)*
        }
    })
}

fn class_name(of: &Type) -> syn::Result<Ident> {
    match of {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
        _ => None,
    }
    .ok_or_else(|| syn::Error::new_spanned(of, "this is no class"))
}

/// Makes a method for PyO3 of an `async` one, and returns its body as a function.
fn split(method: &mut ImplItemFn, class: &Ident) -> syn::Result<TokenStream> {
    let ReturnType::Type(_, output) = &method.sig.output else {
        return Err(syn::Error::new_spanned(
            &method.sig.ident,
            "an async method for Python returns a PyResult",
        ));
    };
    let output = output.clone();
    let name = method.sig.ident.clone();
    let body_name = format_ident!("__rondel_async_{}", name, span = Span::call_site());
    let block = method.block.to_token_stream();
    let inner = without_attributes(&method.sig, &body_name);

    let mut receiver = has_receiver(&method.attrs);
    let mut arguments = Vec::new();
    let mut inputs = Vec::new();
    for input in &method.sig.inputs {
        match input {
            FnArg::Receiver(own) if own.reference.is_none() || own.mutability.is_some() => {
                return Err(syn::Error::new_spanned(
                    own,
                    "a future outlives this borrow: take `&self` of a frozen class, \
                     or `slf: Py<Self>`",
                ));
            }
            // The future keeps the object. That it may be shared is seen by `Py::get`, which
            // frozen classes have.
            FnArg::Receiver(_) => {
                receiver = false;
                inputs.push(quote!(__slf: ::pyo3::Py<Self>));
                inputs.push(quote!(__py: ::pyo3::Python<'_>));
                arguments.push(quote!(__slf.get()));
            }
            FnArg::Typed(argument) => {
                let Pat::Ident(pattern) = &*argument.pat else {
                    return Err(syn::Error::new_spanned(
                        argument,
                        "each argument of an async method for Python has a name",
                    ));
                };
                let mut owned = argument.clone();
                if let Pat::Ident(pattern) = &mut *owned.pat {
                    pattern.mutability = None;
                }
                inputs.push(owned.to_token_stream());
                arguments.push(pattern.ident.to_token_stream());
                // After the receiver, or the class, which PyO3 takes first.
                if std::mem::take(&mut receiver) {
                    inputs.push(quote!(__py: ::pyo3::Python<'_>));
                }
            }
        }
    }
    if receiver {
        return Err(syn::Error::new_spanned(
            &method.sig,
            "a method takes `&self` of a frozen class or `slf: Py<Self>`; \
             one that takes neither is a #[staticmethod]",
        ));
    }
    if !has_receiver(&method.attrs) {
        inputs.push(quote!(__py: ::pyo3::Python<'_>));
    }
    let text = format!("{class}.{name}").replace("r#", "");
    let (attributes, visibility) = (&method.attrs, &method.vis);
    *method = syn::parse_quote! {
        #(#attributes)*
        #visibility fn #name(
            #(#inputs),*
        ) -> ::pyo3::PyResult<::pyo3::Py<::rondel_pyo3::Coroutine>> {
            let future = async move {
                let output: #output = Self::#body_name(#(#arguments),*).await;
                output
            };
            ::rondel_pyo3::coroutine(__py, #text, future)
        }
    };
    Ok(quote!(#inner #block))
}

/// Whether PyO3 passes an object or a class first.
fn has_receiver(attributes: &[Attribute]) -> bool {
    !attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("staticmethod"))
}

/// The signature of the body: what PyO3 reads of the arguments is not for it.
fn without_attributes(signature: &Signature, name: &Ident) -> Signature {
    let mut signature = signature.clone();
    signature.ident = name.clone();
    for input in &mut signature.inputs {
        match input {
            FnArg::Receiver(receiver) => receiver.attrs.clear(),
            FnArg::Typed(argument) => argument.attrs.clear(),
        }
    }
    signature
}
