//! Calling off calls: for a host that runs several programs side by side, and needs the answers of some.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::error::{Code, Error, Result};

/// What calls off every call of the programs that it was given to ([`Program::cancelled_by`]), those under way and those
/// that would begin later. Its clones are one.
///
/// [`Program::cancelled_by`]: super::Program::cancelled_by
#[derive(Clone, Debug)]
pub struct Cancel {
    /// An event that is set once and never taken back, so that it wakes everybody who polls it.
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// One that calls off nothing yet.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| {
            let reason = std::io::Error::from(error);
            Error::new(
                Code::Busy,
                format!("there is no descriptor for calling programs off: {reason}"),
            )
        })?;
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// Calls off, and waits for nothing: each call ends its program in the thread that made it, and then returns
    /// [`Code::Cancelled`].
    pub fn cancel(&self) {
        // It fails only where the event has been set more often than it can count, and so is set.
        let _ = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }

    /// Whether it has.
    pub fn is_cancelled(&self) -> bool {
        let mut event = [PollFd::new(&*self.event, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| poll(&mut event, Some(&at_once))).is_ok_and(|ready| ready > 0)
    }

    /// Readable once it has been called off. Not to be read.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// How many calls are under way in this process.
static CALLS: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A call under way, from before it looks whether it is called off until its program has ended.
#[derive(Debug)]
pub(super) struct UnderWay(());

impl UnderWay {
    pub(super) fn begin() -> Self {
        *calls() += 1;
        Self(())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *calls() -= 1;
        ENDED.notify_all();
    }
}

fn calls() -> MutexGuard<'static, usize> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no call is under way in this process, in whatever thread, or until the limit is over. Says whether it is so.
///
/// For the end of `main`: what still runs when the process ends is killed with it, in the midst of whatever it does. Calls
/// that were called off are over within 2 seconds.
pub fn wait_for_calls(limit: Duration) -> bool {
    let (calls, _) = ENDED
        .wait_timeout_while(calls(), limit, |calls| *calls > 0)
        .unwrap_or_else(PoisonError::into_inner);
    *calls == 0
}
