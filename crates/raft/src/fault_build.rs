//! A build for fault runs, with [`failpoints`](crate::failpoints) and [mutants](brama_core::mutants): it can be told to break.

/// Whether this build can be told to break. It says so wherever it says its name.
pub const IS_ONE: bool = cfg!(any(feature = "failpoints", feature = "mutants"));

/// Reads what this process was told by the variables `FAILPOINTS` and `MUTANT`; before it starts a node. Any other build reads neither.
///
/// # Errors
/// When it cannot be done: a run would wait for what never happens.
pub fn prepare() -> Result<(), String> {
    #[cfg(feature = "failpoints")]
    if let Ok(source) = std::env::var("FAILPOINTS") {
        crate::failpoints::listen_to(source)?;
    }
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        let mutant = brama_core::mutants::Mutant::named(&name);
        brama_core::mutants::choose(mutant.ok_or_else(|| format!("MUTANT: there is no {name:?}"))?);
    }
    Ok(())
}

/// In which way this process was told to be broken.
pub fn broken_on_purpose() -> Option<String> {
    #[cfg(feature = "mutants")]
    if let Some(mutant) = brama_core::mutants::chosen() {
        return Some(format!("BROKEN ON PURPOSE: {}", mutant.name()));
    }
    None
}
