//! From a function to one behind a circuit.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, FnArg, Ident, ItemFn, Pat, Path, ReturnType, Token};

/// What stands in the parentheses of the attribute.
struct Arguments {
    identifier: Expr,
    scope: Option<Expr>,
    client: Option<Expr>,
    policy: Option<Expr>,
    on_error: Option<Path>,
    fallback: Option<Path>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.is_empty() {
            return Err(
                input.error("the circuit's identifier is missing: #[circuit_breaker(\"payment_api\")]")
            );
        }
        let mut arguments = Self {
            identifier: input.parse()?,
            scope: None,
            client: None,
            policy: None,
            on_error: None,
            fallback: None,
        };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "scope" => once(&mut arguments.scope, &key, input.parse()?)?,
                "client" => once(&mut arguments.client, &key, input.parse()?)?,
                "policy" => once(&mut arguments.policy, &key, input.parse()?)?,
                "on_error" => once(&mut arguments.on_error, &key, input.parse()?)?,
                "fallback" => once(&mut arguments.fallback, &key, input.parse()?)?,
                other => {
                    let known = "scope, client, policy, on_error, fallback";
                    return Err(Error::new(key.span(), format!("`{other}` is none of {known}")));
                }
            }
        }
        Ok(arguments)
    }
}

fn once<T>(place: &mut Option<T>, key: &Ident, value: T) -> syn::Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new(key.span(), format!("`{key}` is there twice"))),
    }
}

/// The function with its body behind a circuit.
///
/// # Errors
/// The arguments are wrong, or it is a function that cannot be behind one.
pub(crate) fn expand(arguments: TokenStream, function: TokenStream) -> syn::Result<TokenStream> {
    let arguments: Arguments = syn::parse2(arguments)?;
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
    } = syn::parse2(function)?;
    let ReturnType::Type(_, returned) = &sig.output else {
        return Err(Error::new_spanned(
            &sig,
            "it has to return a `Result`: its error is what the circuit counts",
        ));
    };
    if let Some(constness) = &sig.constness {
        return Err(Error::new_spanned(constness, "a `const` function calls nobody"));
    }

    let guard = quote!(::brama_client::__guard);
    let Arguments {
        identifier, on_error, ..
    } = &arguments;
    let scope = option(arguments.scope.as_ref().map(|scope| quote!(#scope)));
    let client = option(arguments.client.as_ref().map(|client| quote!(#client)));
    let policy = match &arguments.policy {
        Some(policy) => quote!(|| #policy),
        None => quote!(<::brama_client::Policy as ::core::default::Default>::default),
    };
    let wait = sig.asyncness.map(|_| quote!(.await));
    let acquire = if sig.asyncness.is_some() {
        quote!(#guard::acquire)
    } else {
        quote!(#guard::acquire_blocking)
    };
    let otherwise = match &arguments.fallback {
        Some(fallback) => {
            let names = names(&sig.inputs)?;
            quote!(return #fallback(#(#names,)* __brama_not_made) #wait)
        }
        None => quote!(return ::core::result::Result::Err(::core::convert::From::from(__brama_not_made))),
    };
    let classified = match on_error {
        Some(path) => quote!(#guard::classify_with(&__brama_result, |__brama_error| #path(__brama_error))),
        None => quote!(#guard::classify(&__brama_result)),
    };
    // What is never run tells the compiler what the body returns, so that `?` in it knows its error.
    let hint = quote! {
        #[allow(unreachable_code, clippy::diverging_sub_expression, clippy::empty_loop, clippy::let_unit_value)]
        if false {
            let __brama_returned: #returned = loop {};
            return __brama_returned;
        }
    };
    let run = if sig.asyncness.is_some() {
        quote!(async move { #hint #block }.await)
    } else {
        quote!((move || -> #returned { #block })())
    };
    Ok(quote! {
        #(#attrs)*
        #vis #sig {
            let __brama_permit = match #acquire(#client, #scope, #identifier, #policy) #wait {
                ::core::result::Result::Ok(__brama_permit) => __brama_permit,
                ::core::result::Result::Err(__brama_not_made) => #otherwise,
            };
            #[allow(clippy::redundant_closure_call, clippy::unused_unit)]
            let __brama_result: #returned = #run;
            __brama_permit.complete(#classified);
            __brama_result
        }
    })
}

fn option(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// The arguments as the fallback is given them.
fn names(inputs: &Punctuated<FnArg, Token![,]>) -> syn::Result<Vec<Ident>> {
    let name = |input: &FnArg| match input {
        FnArg::Receiver(receiver) => Ok(Ident::new("self", receiver.self_token.span)),
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(pattern) if pattern.subpat.is_none() => {
                let ident = &pattern.ident;
                Ok(format_ident!("{ident}", span = ident.span()))
            }
            pattern => Err(Error::new_spanned(
                pattern,
                "with a fallback each argument needs a name: the fallback is given it too",
            )),
        },
    };
    inputs.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: TokenStream, function: TokenStream) -> String {
        expand(arguments, function).map_or_else(|error| error.to_string(), |made| panic!("{made}"))
    }

    #[test]
    fn what_is_wrong_is_said() {
        let function = || {
            quote!(
                async fn f(a: u32) -> Result<u32, String> {
                    Ok(a)
                }
            )
        };
        assert!(refused(quote!(), function()).contains("identifier is missing"));
        assert!(refused(quote!("a", retries = 3), function()).contains("`retries` is none of scope, client"));
        assert!(
            refused(quote!("a", scope = "b", scope = "c"), function()).contains("`scope` is there twice")
        );
        let silent = refused(
            quote!("a"),
            quote!(
                async fn f() {}
            ),
        );
        assert!(silent.contains("return a `Result`"), "{silent}");
        let nameless = quote!(
            fn f((a, b): (u32, u32)) -> Result<u32, String> {
                Ok(a + b)
            }
        );
        assert!(refused(quote!("a", fallback = g), nameless.clone()).contains("needs a name"));
        assert!(expand(quote!("a"), nameless).is_ok());
        assert!(
            refused(
                quote!("a"),
                quote!(
                    struct S;
                )
            )
            .contains("expected")
        );
    }

    #[test]
    fn attributes_and_visibility_stay() {
        let made = expand(
            quote!(NAME,),
            quote!(
                /// Documented.
                pub(crate) fn f(self: &Self) -> io::Result<()> {
                    Ok(())
                }
            ),
        );
        let made = made.unwrap().to_string();
        assert!(
            made.contains("Documented") && made.contains("pub (crate) fn f (self : & Self)"),
            "{made}"
        );
    }
}
