//! How a command ends: what is said on standard error, and which code a script sees.

use std::io;
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What a script sees.
    pub(crate) code: Code,
    /// What a person reads; `None`: the answer on standard output has said it, or nobody reads any more.
    pub(crate) message: Option<String>,
    /// What to do next.
    pub(crate) advice: Option<String>,
}

/// The exit codes; docs/cli.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Not a failure: who was reading the answer has read enough.
    Enough = 0,
    /// Whatever has no code of its own.
    General = 1,
    /// The command line, the configuration, or a value in it is wrong.
    Usage = 2,
    /// There is no such circuit.
    NotFound = 3,
    /// There is such a circuit already.
    AlreadyExists = 4,
    /// The answer is no: the circuit does not let the call pass.
    Rejected = 5,
    /// No node answers, or there is no leader. Nothing was changed.
    Unavailable = 6,
    /// It may or may not have been done.
    Unknown = 7,
    /// The events that were asked for are no longer kept.
    Compacted = 8,
}

/// What a command returns.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            advice: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Only the code: everything was said.
    pub(crate) fn silent(code: Code) -> Self {
        Self {
            code,
            message: None,
            advice: None,
        }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Standard output is the only thing whose errors come here as such.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // `brama events | head -1` is not a mistake of anybody's.
            return Self::silent(Code::Enough);
        }
        Self::new(Code::General, format!("cannot write the answer: {error}"))
    }
}

/// Says what there is to say and gives the process its code.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    if let Some(message) = &failure.message {
        eprintln!("error: {message}");
    }
    if let Some(advice) = &failure.advice {
        eprintln!("  hint: {advice}");
    }
    ExitCode::from(failure.code as u8)
}
