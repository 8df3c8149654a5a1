//! Whether the wall clock may decide what is old.
//!
//! A box without a battery wakes in 1970, one with a broken one in 2036. What is removed by age is gone, so the clock has to be
//! vouched for: by the kernel, which a time server's client tells that it keeps it right, or by an admin.
//!
//! Invariant: an admin's word holds until the clock is set or the service ends, for nobody knows what was done to it then.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{Store, StoreError, record::event::Event};

/// The clock may leave the one that nobody sets by so many seconds, as clocks that are kept right do.
const SET: f64 = 2.0;

/// The wall clock, and who vouches for it.
pub struct Clock {
    synchronised: Box<dyn Fn() -> bool + Send + Sync>,
    /// When an admin confirmed it, by it and by the clock that nobody sets.
    confirmed: Mutex<Option<(OffsetDateTime, Instant)>>,
    news: Notify,
}

impl Clock {
    /// The kernel says whether it is synchronised.
    pub fn kernel() -> Self {
        Self::asking(synchronised)
    }

    /// `synchronised` says so.
    pub fn asking(synchronised: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { synchronised: Box::new(synchronised), confirmed: Mutex::default(), news: Notify::new() }
    }

    /// Until an admin confirms it.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Whether somebody vouches for it now.
    pub fn vouched_for(&self) -> bool {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = |(wall, monotonic): &mut (OffsetDateTime, Instant)| {
            let by_it = (OffsetDateTime::now_utc() - *wall).as_seconds_f64();
            (by_it - monotonic.elapsed().as_secs_f64()).abs() <= SET
        };
        if !confirmed.as_mut().is_none_or(stands) {
            *confirmed = None;
        }
        confirmed.is_some() || (self.synchronised)()
    }
}

impl Store {
    /// An admin says that the clock is right; that stands in the record before it counts.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing has changed.
    pub async fn confirm_clock(&self, clock: &Clock, by: &str) -> Result<(), StoreError> {
        self.append(Event::ClockConfirmed { by: by.into() }).await?;
        let now = (OffsetDateTime::now_utc(), Instant::now());
        *clock.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        clock.news.notify_one();
        Ok(())
    }
}

/// Whether the kernel calls its clock synchronised. Where it may not be asked, it is not.
#[allow(unsafe_code)] // adjtimex fills the struct it is given, and with no modes set changes nothing
fn synchronised() -> bool {
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    state != -1 && state != libc::TIME_ERROR && answer.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_admins_word_holds_until_the_clock_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let clock = Clock::asking(|| false);
        assert!(!clock.vouched_for());
        store.confirm_clock(&clock, "Ada").await.unwrap();
        assert!(clock.vouched_for());
        let told = store.events(&["clock_confirmed"], None).await.unwrap();
        assert_eq!(told[0].event, Event::ClockConfirmed { by: "Ada".into() });
        // As if it had been set ten years ahead since.
        clock.confirmed.lock().unwrap().as_mut().unwrap().0 -= time::Duration::days(3650);
        assert!(!clock.vouched_for());
        assert!(Clock::asking(|| true).vouched_for());
        synchronised(); // it answers, whatever it is
    }
}
