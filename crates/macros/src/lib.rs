//! The attribute of `brama_client`, which exports and documents it.

mod expand;

use proc_macro::TokenStream;

/// Puts a function behind a circuit: a call that the circuit does not let pass is not made.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use brama_client::testing::FakeCluster;
/// use brama_client::{CallError, Classified, NotMade, Policy, circuit_breaker};
///
/// #[derive(Debug, PartialEq)]
/// enum BankError {
///     NoSuchAccount,
///     Down,
///     NotTried,
/// }
///
/// impl From<NotMade> for BankError {
///     fn from(_: NotMade) -> Self {
///         Self::NotTried
///     }
/// }
///
/// /// An account that does not exist says nothing bad of the bank.
/// fn of_the_bank(error: &BankError) -> Classified {
///     match error {
///         BankError::NoSuchAccount => Classified::Success,
///         _ => Classified::Failure("the bank is down".to_owned()),
///     }
/// }
///
/// #[circuit_breaker("bank", policy = Policy { max_attempts: Some(2), ..Policy::default() }, on_error = of_the_bank)]
/// async fn balance(account: u32) -> Result<i64, BankError> {
///     match account {
///         0 => Err(BankError::Down),
///         1 => Ok(100),
///         _ => Err(BankError::NoSuchAccount),
///     }
/// }
///
/// async fn last_known(account: u32, why: NotMade) -> Result<i64, BankError> {
///     Ok(if matches!(why, CallError::Rejected { .. }) { i64::from(account) * 10 } else { 0 })
/// }
///
/// #[circuit_breaker("bank", on_error = of_the_bank, fallback = last_known)]
/// async fn balance_or_older(account: u32) -> Result<i64, BankError> {
///     balance(account).await
/// }
///
/// let cluster = FakeCluster::start().await?;
/// brama_client::install(cluster.client()?);
/// assert_eq!(balance(1).await, Ok(100));
/// assert_eq!(balance(7).await, Err(BankError::NoSuchAccount));
/// for _ in 0..2 {
///     assert_eq!(balance(0).await, Err(BankError::Down));
/// }
/// cluster.settle().await;
/// assert_eq!(balance(1).await, Err(BankError::NotTried));
/// assert_eq!(balance_or_older(7).await, Ok(70));
/// # Ok(()) }
/// ```
///
/// The first argument is the circuit's identifier: a `&str`. After it, in any order:
///
/// | | |
/// | --- | --- |
/// | `scope = "billing"` | the circuit's scope |
/// | `client = expression` | a `&Client`; otherwise the one that was [installed](../brama_client/fn.install.html) |
/// | `policy = expression` | the policy with which the circuit is registered when there is none of its name; otherwise every option is inherited. An existing circuit stays as it is, and one that somebody has unregistered is not registered again |
/// | `on_error = path` | `fn(&E) -> Classified`, what an error means for the circuit; otherwise every error is a failure with its text as reason, and `E` has to be `Display` |
/// | `fallback = path` | is called instead of the function when the circuit does not let the call pass, with the same arguments and a `NotMade`; it is async if the function is. Otherwise the `NotMade` becomes the function's error by `From` |
///
/// The function returns a `Result`, and may be async or not, a method too (in a trait's `impl` only if it is no `async_trait`). A function that is not async
/// waits in half-open, for at most the client's acquire timeout, until the cluster has given a permit or not. Inside of a tokio runtime of one thread
/// nobody could answer meanwhile: there it is rejected at once, unless the installed client is a `blocking::Client`, which has a thread of its own.
///
/// The outcome is counted as that of `Circuit::call_with`: a call that is dropped or panics counts as ignored.
#[proc_macro_attribute]
pub fn circuit_breaker(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(arguments.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
