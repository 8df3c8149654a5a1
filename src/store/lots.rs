//! Lots: opened and closed by entries of the record, which is all there is of them.
//!
//! Invariant: at most one lot is open. A verdict belongs to the lot that was open when it was decided, so entries of a
//! closed lot may stand a little behind its closing: they waited for the store.

use std::sync::atomic::Ordering;

use super::{
    Store, StoreError,
    chain::{self, extend, no_head, tail},
    event::Event,
};

impl Store {
    /// The number of the open lot: the place of its opening in the record.
    pub fn open_lot(&self) -> Option<i64> {
        Some(self.lot.load(Ordering::Acquire)).filter(|lot| *lot > 0)
    }

    /// Opens a lot, and closes the open one before, in one step; returns its number.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing has changed.
    pub async fn begin_lot(&self, name: &str, by: &str) -> Result<i64, StoreError> {
        let opened = Event::LotOpened { name: name.into(), by: by.into() };
        let lot = self.change_lot(by, Some(opened)).await?;
        Ok(lot.unwrap_or(0))
    }

    /// Closes the open lot; returns its number, or `None` when none was open.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing has changed.
    pub async fn end_lot(&self, by: &str) -> Result<Option<i64>, StoreError> {
        self.change_lot(by, None).await
    }

    async fn change_lot(&self, by: &str, opened: Option<Event>) -> Result<Option<i64>, StoreError> {
        let mut transaction = self.database.begin_with("BEGIN IMMEDIATE").await?;
        // Read only now: nobody else can change it while the transaction holds the write lock.
        let open = self.open_lot();
        let closed = open.map(|lot| Event::LotClosed { lot, by: by.into() });
        let bodies: Vec<_> =
            closed.into_iter().chain(opened.clone()).map(chain::event).collect::<Result<_, StoreError>>()?;
        if bodies.is_empty() {
            return Ok(None);
        }
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        let tail = extend(&mut transaction, &self.signer, tail, &bodies).await?;
        transaction.commit().await?;
        let now_open = if opened.is_some() { tail.seq } else { 0 };
        self.lot.store(now_open, Ordering::Release);
        Ok(if opened.is_some() { Some(now_open) } else { open })
    }
}
