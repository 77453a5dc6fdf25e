//! Prepared statements that clients hold handles of.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use datafusion::arrow::array::RecordBatch;
use parking_lot::Mutex;
use uuid::Uuid;
use windlass_proto::{Kind, SessionId};

use crate::error::{Error, Result};
use crate::session::Session;
use crate::statement::Statement;

/// A prepared statement with the values bound last.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The session it was prepared in and runs in.
    pub(super) session: Arc<Session>,
    /// What to run.
    pub(super) statement: Arc<Statement>,
    /// One row per run; none until something is bound.
    pub(super) parameters: Option<RecordBatch>,
}

/// All prepared statements, bounded per session. They end with a close, or with their session.
#[derive(Debug)]
pub(super) struct PreparedStatements {
    per_session_max: usize,
    open: Mutex<HashMap<SessionId, OfSession>>,
}

#[derive(Debug)]
struct OfSession {
    session: Weak<Session>,
    statements: HashMap<Uuid, (Arc<Statement>, Option<RecordBatch>)>,
}

impl PreparedStatements {
    pub(super) fn new(per_session_max: usize) -> Self {
        Self { per_session_max, open: Mutex::default() }
    }

    /// The new statement's handle. Errors: `Exhausted`.
    pub(super) fn add(&self, session: &Arc<Session>, statement: Arc<Statement>) -> Result<String> {
        let mut open = self.open.lock();
        open.retain(|_, of| of.session.strong_count() > 0);
        let of =
            open.entry(session.id().clone()).or_insert_with(|| OfSession { session: Arc::downgrade(session), statements: HashMap::new() });
        if of.statements.len() >= self.per_session_max {
            return Err(Error::new(Kind::Exhausted, format!("the session has {} prepared statements open", self.per_session_max))
                .with_hint("close those that are no longer used"));
        }
        let id = Uuid::new_v4();
        of.statements.insert(id, (statement, None));
        Ok(format!("{}/{id}", session.id()))
    }

    /// The statement behind a handle. Errors: `NotFound`; `Denied` for another user's.
    pub(super) fn get(&self, caller: &Session, handle: &[u8]) -> Result<Prepared> {
        self.with(caller, handle, |session, (statement, parameters)| Prepared {
            session,
            statement: Arc::clone(statement),
            parameters: parameters.clone(),
        })
    }

    /// Replaces the bound values. Errors: as [`PreparedStatements::get`].
    pub(super) fn bind(&self, caller: &Session, handle: &[u8], rows: Option<RecordBatch>) -> Result<()> {
        self.with(caller, handle, |_, (_, parameters)| *parameters = rows)
    }

    /// Forgets a statement; one that is gone already is no error.
    pub(super) fn close(&self, caller: &Session, handle: &[u8]) {
        let mut open = self.open.lock();
        if let Some((session, id)) = parse(handle)
            && let Some(of) = open.get_mut(&session)
            && of.session.upgrade().is_some_and(|session| session.user() == caller.user())
        {
            of.statements.remove(&id);
        }
    }

    /// Forgets all statements of a session.
    pub(super) fn close_all(&self, session: &SessionId) {
        self.open.lock().remove(session);
    }

    fn with<R>(
        &self,
        caller: &Session,
        handle: &[u8],
        f: impl FnOnce(Arc<Session>, &mut (Arc<Statement>, Option<RecordBatch>)) -> R,
    ) -> Result<R> {
        let gone = || Error::new(Kind::NotFound, "the prepared statement does not exist or was closed").with_hint("prepare it again");
        let (session, id) = parse(handle).ok_or_else(gone)?;
        let mut open = self.open.lock();
        let of = open.get_mut(&session).ok_or_else(gone)?;
        let session = of.session.upgrade().ok_or_else(gone)?;
        if session.user() != caller.user() {
            return Err(Error::new(Kind::Denied, "the prepared statement belongs to another user"));
        }
        Ok(f(session, of.statements.get_mut(&id).ok_or_else(gone)?))
    }
}

fn parse(handle: &[u8]) -> Option<(SessionId, Uuid)> {
    let (session, id) = std::str::from_utf8(handle).ok()?.split_once('/')?;
    Some((SessionId::new(session), id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::NoExecutors;
    use crate::session::{SessionLimits, Sessions};
    use crate::statement::Action;

    #[test]
    fn handles_are_bounded_private_and_end_with_their_session() {
        let sessions = Sessions::new(SessionLimits::default(), Arc::new(NoExecutors));
        let (ada, bob) = (sessions.open("ada").unwrap(), sessions.open("bob").unwrap());
        let statement = || Arc::new(Statement::new("RESET ALL".to_owned(), Action::Reset(None), None, Vec::new()));
        let prepared = PreparedStatements::new(2);
        let first = prepared.add(&ada, statement()).unwrap();
        let second = prepared.add(&ada, statement()).unwrap();
        assert_eq!(prepared.add(&ada, statement()).unwrap_err().kind(), Kind::Exhausted);
        assert!(prepared.add(&bob, statement()).is_ok(), "the limit is per session");

        let kind = |caller: &Session, handle: &str| prepared.get(caller, handle.as_bytes()).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(kind(&bob, &first), Err(Kind::Denied));
        prepared.close(&bob, first.as_bytes());
        assert_eq!(kind(&ada, &first), Ok(()), "others cannot close it");
        prepared.close(&ada, first.as_bytes());
        assert_eq!(kind(&ada, &first), Err(Kind::NotFound));
        assert_eq!(kind(&ada, "nonsense"), Err(Kind::NotFound));

        assert_eq!(kind(&ada, &second), Ok(()));
        let id = ada.id().clone();
        sessions.close(&id);
        drop(ada);
        assert_eq!(kind(&bob, &second), Err(Kind::NotFound), "its session is gone");
    }
}
