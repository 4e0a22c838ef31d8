//! The addresses of a name, asked for one at a time.
//!
//! A lookup cannot be called off: where the resolver is gone it holds a thread of the C library's for many seconds. So whoever
//! stops waiting leaves it running, and whoever asks next waits for that one, instead of beginning another each second.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How old an answer may be for which nobody waited.
const STALE: Duration = Duration::from_secs(30);

/// Lookups of one name.
#[derive(Clone, Default)]
pub(super) struct Lookup(Arc<Mutex<Option<UnderWay>>>);

struct UnderWay {
    begun: Instant,
    answer: JoinHandle<io::Result<Vec<SocketAddr>>>,
}

impl Lookup {
    /// The addresses of the name. May be given up at any moment.
    pub(super) async fn addresses(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut under_way = self.0.lock().await;
        if under_way
            .as_ref()
            .is_some_and(|lookup| lookup.answer.is_finished() && lookup.begun.elapsed() > STALE)
        {
            *under_way = None;
        }
        let lookup = under_way.get_or_insert_with(|| {
            let name = name.to_owned();
            UnderWay {
                begun: Instant::now(),
                answer: tokio::spawn(async move { Ok(lookup_host((name, port)).await?.collect()) }),
            }
        });
        let answer = (&mut lookup.answer).await;
        *under_way = None;
        // It did not come to an end where the event loop did.
        answer.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}
