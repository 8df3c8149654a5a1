//! What every event stream has in common: a place among a bounded number, and an end when the service stops (without
//! it, one open page would hold up the shutdown for ever).

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::response::sse::{Event, KeepAlive, Sse};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::api::{Api, error::ApiError};

/// Pause after which a silent stream sends a comment, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Events until the service stops.
pub(in crate::api) struct EventStream<S> {
    events: Pin<Box<S>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

/// Sends `events` as server-sent events.
pub(in crate::api) fn send<S>(
    api: &Api,
    events: S,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<S>>, ApiError>
where
    S: Stream<Item = Event> + Send + 'static,
{
    let place = api.0.streams.clone().try_acquire_owned().map_err(|_| ApiError::TooManyStreams)?;
    let stopped = Box::pin(api.stop.clone().cancelled_owned());
    let events = EventStream { events: Box::pin(events), stopped, _place: place };
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl<S: Stream<Item = Event>> Stream for EventStream<S> {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.events.as_mut().poll_next(cx).map(|event| event.map(Ok))
    }
}
