//! A watch that lists again after every break.
//!
//! The API server may have come back with a store that was restored from a backup. A watch that goes on from where it was
//! would then wait for a version that is yet to come, without a word, and miss everything until then.

use futures::{Stream, StreamExt, stream};
use kube::Api;
use kube::api::Resource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, Result, watcher};
use serde::de::DeserializeOwned;

/// Watches for ever, pausing after errors.
pub fn watch<K>(api: Api<K>, config: Config) -> impl Stream<Item = Result<Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).boxed();
    let next = |(running, begin): (Option<stream::BoxStream<'static, _>>, _)| next(running, begin);
    stream::unfold((None, begin), next).default_backoff()
}

/// One event of the watch that runs, or of a new one. One that failed is not asked again.
async fn next<T, E, F>(running: Option<T>, begin: F) -> Option<(Result<E>, (Option<T>, F))>
where
    T: Stream<Item = Result<E>> + Unpin,
    F: Fn() -> T,
{
    let mut events = running.unwrap_or_else(&begin);
    let event = events.next().await?;
    let running = event.is_ok().then_some(events);
    Some((event, (running, begin)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kube::runtime::watcher::Error;

    use super::*;

    #[tokio::test]
    async fn what_failed_is_begun_anew_and_not_asked_again() {
        let lives = Cell::new(0);
        let begin = || {
            lives.set(lives.get() + 1);
            // After the error it would wait without end.
            let events = stream::iter([Ok(lives.get()), Err(Error::NoResourceVersion)]);
            events.chain(stream::pending()).boxed_local()
        };
        let events = stream::unfold((None, begin), |(running, begin)| next(running, begin));
        let seen: Vec<_> = events.take(5).map(Result::ok).collect().await;
        assert_eq!(seen, [Some(1), None, Some(2), None, Some(3)]);
    }
}
