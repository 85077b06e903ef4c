//! `#[rondel::main]` and `#[rondel::test]`, which are documented in the crate `rondel`.
//!
//! Both keep the async function, put it into one of the same name that is not, and have that run it
//! on a loop. No more of Rust's grammar has to be understood for this than where a function's body,
//! name and parameters stand.

use proc_macro::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};

/// See `rondel::main`.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, function: TokenStream) -> TokenStream {
    match arguments.is_empty() {
        true => wrapped(function, "::rondel::__macros::main", ""),
        false => error("#[rondel::main] takes no arguments"),
    }
}

/// See `rondel::test`.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, function: TokenStream) -> TokenStream {
    let run = match arguments.to_string().as_str() {
        "" => "::rondel::__macros::test",
        "real_clock" => "::rondel::__macros::test_in_real_time",
        _ => return error("#[rondel::test] takes nothing, or real_clock"),
    };
    wrapped(function, run, "#[::core::prelude::v1::test]")
}

/// The function `name` with the async one in it, and a call of `run` with that one's future.
fn wrapped(function: TokenStream, run: &str, attribute: &str) -> TokenStream {
    let tokens: Vec<TokenTree> = function.into_iter().collect();
    let is = |token: &TokenTree, word: &str| matches!(token, TokenTree::Ident(it) if it.to_string() == word);
    let Some(at) = tokens
        .windows(2)
        .position(|pair| is(&pair[0], "async") && is(&pair[1], "fn"))
    else {
        return error("an async fn is expected");
    };
    let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(parameters))) =
        (tokens.get(at + 2), tokens.get(at + 3))
    else {
        return error("a function without generic parameters is expected");
    };
    if !parameters.stream().is_empty() {
        return error("a function without parameters is expected");
    }
    if !matches!(tokens.last(), Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace)
    {
        return error("a function with a body is expected");
    }
    let body = format!("{run}({name}())");
    let Ok(call) = body.parse::<TokenStream>() else {
        return error("the function's name is not understood");
    };
    // Attributes and visibility stay outside, `async` inside.
    let inner: TokenStream = tokens[at..].iter().cloned().collect();
    let mut outer: TokenStream = attribute.parse().unwrap_or_default();
    outer.extend(tokens[..at].iter().cloned());
    outer.extend(tokens[at + 1..tokens.len() - 1].iter().cloned());
    outer.extend([TokenTree::Group(Group::new(
        Delimiter::Brace,
        inner.into_iter().chain(call).collect(),
    ))]);
    outer
}

fn error(text: &str) -> TokenStream {
    let message = format!("compile_error!({text:?});");
    message.parse().unwrap_or_else(|_| {
        TokenStream::from(TokenTree::Ident(Ident::new("error", Span::call_site())))
    })
}
