//! Addresses that a Pod asks for by annotation, where the runtime does not pass annotations on.
//!
//! ```text
//! ADD ─▶ of ── the watch has the Pod ─▶ what it asks for
//!          ├── it does not yet       ─▶ one live look, LOOK at most
//!          │      └── no answer in that time ─▶ code 11: the runtime tries again
//!          ├── it has none, as the agent has just started ─▶ its first answer, LOOK after the start at most
//!          └── the API server is away ─▶ nothing: pods start also without it
//! ```
//! kubelet learns of a Pod by a watch like ours, some 100 ms before the runtime calls, so the live look is rare.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::chain;
use super::pods::{Known, Pods, asked_by};
use crate::record::PodName;

/// Longest that an ADD waits for the live look. An API server that is slower than this is as good as away.
const LOOK: Duration = Duration::from_secs(2);

/// Live looks at once: as many as kubelet starts pods at a time, and some.
const AT_ONCE: usize = 32;

/// Answers what Pods ask for. Clones share everything.
#[derive(Clone, Debug)]
pub struct Annotations {
    pods: Pods,
    questions: mpsc::Sender<Question>,
    /// Until when an ADD waits for the watch to begin: those that waited for this agent are faster than it.
    begins_by: Instant,
}

/// A live look, and where its answer goes.
#[derive(Debug)]
pub struct Question {
    pod: PodName,
    answer: oneshot::Sender<Vec<String>>,
}

impl Annotations {
    /// With the queue that [`answer`] is to serve.
    #[must_use]
    pub fn new(pods: Pods) -> (Self, mpsc::Receiver<Question>) {
        let (questions, queue) = mpsc::channel(AT_ONCE);
        (Self { pods, questions, begins_by: Instant::now() + LOOK }, queue)
    }

    /// The addresses that this Pod's annotations ask for, as they are written; `None` if the API server is too slow to say.
    pub async fn of(&self, pod: &PodName) -> Option<Vec<String>> {
        if self.pods.look_up(pod) == Known::Nothing {
            // Without an answer by then the API server is as good as away.
            let _ = timeout_at(self.begins_by, self.pods.first_try()).await;
        }
        match self.pods.look_up(pod) {
            Known::Pod(asked) => Some(asked),
            Known::Nothing => Some(Vec::new()),
            Known::NotYet => {
                let (answer, answered) = oneshot::channel();
                self.questions.try_send(Question { pod: pod.clone(), answer }).ok()?;
                timeout(LOOK, answered).await.ok()?.ok()
            }
        }
    }
}

/// Serves the live looks, for ever.
pub async fn answer(client: Client, queue: mpsc::Receiver<Question>) {
    let questions = futures::stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
    let look = |Question { pod, answer }: Question| {
        let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
        async move {
            if answer.is_closed() {
                return; // It took too long, and nobody waits any more.
            }
            let found = pods.get_metadata_opt(&pod.name).await;
            let asked = match found {
                Ok(found) => found.map(|found| asked_by(&found, &pod)).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(error = chain(&error), pod = %pod, "its annotations cannot be read: it gets any address");
                    Vec::new()
                }
            };
            drop(answer.send(asked)); // Who asked may have stopped waiting.
        }
    };
    questions.for_each_concurrent(AT_ONCE, look).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Pod is said to ask for by an agent that has just started, when `then` happens.
    async fn asked(then: impl FnOnce(&Pods, &PodName)) -> Option<Vec<String>> {
        let pods = Pods::default();
        let pod = PodName { namespace: "default".into(), name: "web-0".into(), uid: None };
        let (annotations, _queue) = Annotations::new(pods.clone());
        let (asked, ()) = tokio::join!(annotations.of(&pod), async { then(&pods, &pod) });
        asked
    }

    #[tokio::test]
    async fn an_agent_that_has_just_started_waits_for_its_watch() {
        let answered = asked(|pods, pod| pods.complete_with(pod, "10.0.2.9")).await;
        assert_eq!(answered, Some(vec!["10.0.2.9".to_owned()]));
    }

    #[tokio::test]
    async fn but_not_for_an_api_server_that_is_away() {
        let started = Instant::now();
        assert_eq!(asked(|pods, _| pods.fail()).await, Some(Vec::new()));
        assert!(started.elapsed() < LOOK);
        assert_eq!(asked(|_, _| {}).await, Some(Vec::new()), "nor for one that says nothing, for long");
    }
}
