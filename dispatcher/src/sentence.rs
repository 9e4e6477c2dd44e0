//! [`Sentence`]: an error as people read it.

use std::error::Error;
use std::fmt;

/// An error and its causes as one sentence, in which nothing is said twice.
///
/// `Display` of our errors says what failed and leaves the cause to [`source`](Error::source); `Debug` is this sentence,
/// so that a `main` that returns the error prints it. For a log or a message put the error in here.
///
/// ```
/// use aqueduct_dispatcher::Sentence;
///
/// let error = "7x".parse::<u64>().map_err(std::io::Error::other).unwrap_err();
/// assert_eq!(Sentence(&error).to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, Copy)]
pub struct Sentence<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors of other crates speak of their cause themselves.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(": ");
                said.push_str(&text);
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lets `Debug` of errors be their [`Sentence`]: it is what a `main` that returns one prints, and what `expect` prints.
#[doc(hidden)]
#[macro_export]
macro_rules! debug_as_sentence {
    ($($error:ident $(<$type:ident>)?),+ $(,)?) => {$(
        impl $(<$type>)? ::std::fmt::Debug for $error $(<$type>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&$crate::Sentence(self), f)
            }
        }
    )+};
}

#[cfg(test)]
mod tests {
    #[derive(thiserror::Error)]
    #[error("cannot read {file}")]
    struct Read {
        file: &'static str,
        source: Says,
    }

    #[derive(thiserror::Error)]
    #[error("{text}")]
    struct Says {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    debug_as_sentence!(Read, Says);

    #[test]
    fn debug_says_the_error_and_each_cause_once() {
        let innermost = Some(Box::new(Says { text: "no such file", source: None }));
        let source = Says { text: "the disk says no such file", source: innermost };
        let error = Read { file: "node.pem", source };
        assert_eq!(error.to_string(), "cannot read node.pem");
        assert_eq!(format!("{error:?}"), "cannot read node.pem: the disk says no such file");
        assert_eq!(format!("{error:#?}"), format!("{error:?}"));
    }
}
