//! How many files and connections this process may hold open.

/// Asks for `wanted` where the system gives less, mostly 1,024, and says what may be had now: `None` where it was as much already.
#[cfg(unix)]
pub fn allow(wanted: u64) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let given = current.filter(|&current| current < wanted)?;
    let more = maximum.map_or(wanted, |most| most.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum }) {
        Ok(()) => Some(more),
        Err(error) => {
            tracing::debug!(%error, wanted, "open files");
            Some(given)
        }
    }
}

/// No such limit is known here.
#[cfg(not(unix))]
pub fn allow(_wanted: u64) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_gets_what_it_asks_for_or_hears_how_much_there_is() {
        assert_eq!(allow(1), None, "it has more already");
        assert!(allow(300).is_none_or(|given| given >= 300));
        assert!(allow(u64::MAX - 1).is_none_or(|given| given < u64::MAX - 1));
    }
}
