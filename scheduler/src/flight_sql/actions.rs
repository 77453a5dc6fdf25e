//! Flight actions: prepared statements, cancellation, session options.

use std::sync::Arc;

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, Any, ProstMessageExt,
};
use arrow_flight::{Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use prost::Message;
use windlass_catalog::catalog::CATALOG;
use windlass_proto::session::{
    CloseSessionResult, CloseStatus, GetSessionOptionsResult, OptionFailure, OptionValue, SessionOptionValue, SetOptionError,
    SetSessionOptionsRequest, SetSessionOptionsResult,
};
use windlass_proto::{Kind, QueryState};

use super::statements::ipc;
use super::{FlightFrontend, columns};
use crate::error::{Error, Result};
use crate::session::Session;
use crate::statement::StatementKind;

const CREATE_PREPARED_STATEMENT: &str = "CreatePreparedStatement";
const CLOSE_PREPARED_STATEMENT: &str = "ClosePreparedStatement";
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const CANCEL_QUERY: &str = "CancelQuery";
const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
const CLOSE_SESSION: &str = "CloseSession";

/// Session options beside the settings: where unqualified names are looked up.
const CATALOG_OPTION: &str = "catalog";
const SCHEMA_OPTION: &str = "schema";

/// `ActionCreatePreparedStatementResult.is_update = true`, encoded: the field is newer than arrow-flight 59.
const IS_UPDATE: [u8; 2] = [4 << 3, 1];

/// `ActionCancelQueryResult`; its field has an enum that arrow-flight does not export.
#[derive(Clone, PartialEq, Message)]
struct CancelQueryResult {
    #[prost(int32, tag = "1")]
    result: i32,
}

impl FlightFrontend {
    /// What `ListActions` says.
    pub(super) fn actions() -> [ActionType; 7] {
        [
            (CREATE_PREPARED_STATEMENT, "Prepares a statement: ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult"),
            (CLOSE_PREPARED_STATEMENT, "Closes a prepared statement: ActionClosePreparedStatementRequest"),
            (CANCEL_FLIGHT_INFO, "Cancels a query: CancelFlightInfoRequest, CancelFlightInfoResult"),
            (CANCEL_QUERY, "Cancels a query, the old way: ActionCancelQueryRequest, ActionCancelQueryResult"),
            (SET_SESSION_OPTIONS, "Sets session options: SetSessionOptionsRequest, SetSessionOptionsResult"),
            (GET_SESSION_OPTIONS, "Shows session options: GetSessionOptionsRequest, GetSessionOptionsResult"),
            (CLOSE_SESSION, "Closes the session: CloseSessionRequest, CloseSessionResult"),
        ]
        .map(|(name, description)| ActionType { r#type: name.to_owned(), description: description.to_owned() })
    }

    /// `DoAction`: the bodies of its results, which are one or none.
    pub(super) async fn act(&self, session: Arc<Session>, action: Action) -> Result<std::option::IntoIter<Bytes>> {
        let body = match action.r#type.as_str() {
            CREATE_PREPARED_STATEMENT => Some(self.create_prepared_statement(&session, unpack(&action.body)?).await?),
            CLOSE_PREPARED_STATEMENT => {
                let request: ActionClosePreparedStatementRequest = unpack(&action.body)?;
                self.prepared.close(&session, &request.prepared_statement_handle);
                None
            }
            CANCEL_FLIGHT_INFO => {
                let request: CancelFlightInfoRequest = decode(action.body)?;
                let info = request.info.ok_or_else(|| Error::invalid("the request names no flight"))?;
                Some(CancelFlightInfoResult { status: self.cancel(&session, &info).await? as i32 }.encode_to_vec().into())
            }
            CANCEL_QUERY => {
                let request: ActionCancelQueryRequest = unpack(&action.body)?;
                let result = CancelQueryResult { result: self.cancel(&session, &decode(request.info)?).await? as i32 };
                let type_url = "type.googleapis.com/arrow.flight.protocol.sql.ActionCancelQueryResult".to_owned();
                Some(Any { type_url, value: result.encode_to_vec().into() }.encode_to_vec().into())
            }
            SET_SESSION_OPTIONS => Some(self.set_session_options(&session, decode(action.body)?).await?.encode_to_vec().into()),
            GET_SESSION_OPTIONS => Some(session_options(&session).encode_to_vec().into()),
            CLOSE_SESSION => {
                self.prepared.close_all(session.id());
                self.coordinator.sessions().close(session.id());
                Some(CloseSessionResult { status: CloseStatus::Closed as i32 }.encode_to_vec().into())
            }
            "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
                return Err(Error::unsupported("transactions are not supported").with_hint("every statement commits on its own"));
            }
            "CreatePreparedSubstraitPlan" => return Err(Error::unsupported("Substrait plans are not supported")),
            other => return Err(Error::unsupported(format!("action '{other}' is not supported"))),
        };
        Ok(body.into_iter())
    }

    async fn create_prepared_statement(&self, session: &Arc<Session>, request: ActionCreatePreparedStatementRequest) -> Result<Bytes> {
        let statement = self.coordinator.prepare(session, &request.query).await?;
        let updates = statement.kind() == StatementKind::Update;
        let result = ActionCreatePreparedStatementResult {
            // JDBC takes a statement without a dataset schema for an update.
            dataset_schema: if updates { Bytes::new() } else { ipc(&columns::of_result(&statement.schema()))? },
            parameter_schema: ipc(&statement.parameters())?,
            prepared_statement_handle: self.prepared.add(session, Arc::clone(&statement))?.into(),
        };
        let mut any = result.as_any();
        if updates {
            any.value = [any.value.as_ref(), &IS_UPDATE].concat().into();
        }
        Ok(any.encode_to_vec().into())
    }

    async fn cancel(&self, session: &Session, info: &FlightInfo) -> Result<CancelStatus> {
        let query = self.query_of(session, info)?;
        if matches!(query.progress().state(), QueryState::Finished | QueryState::Failed) {
            query.close().await;
            return Ok(CancelStatus::NotCancellable);
        }
        query.cancel().await;
        Ok(CancelStatus::Cancelled)
    }

    /// Sets what can be set and says why the rest was not.
    async fn set_session_options(&self, session: &Session, request: SetSessionOptionsRequest) -> Result<SetSessionOptionsResult> {
        let mut errors = std::collections::HashMap::new();
        for (name, option) in request.session_options {
            let value = match option.option_value {
                None => None,
                Some(OptionValue::String(value)) => Some(value),
                Some(OptionValue::Bool(value)) => Some(value.to_string()),
                Some(OptionValue::Int64(value)) => Some(value.to_string()),
                Some(OptionValue::Double(value)) => Some(value.to_string()),
                Some(OptionValue::StringList(list)) => Some(list.values.join(",")),
            };
            if let Err(error) = self.set_session_option(session, &name, value.as_deref()).await {
                let value = match error.kind() {
                    Kind::NotFound => SetOptionError::InvalidName,
                    Kind::Invalid => SetOptionError::InvalidValue,
                    _ => SetOptionError::Error,
                };
                errors.insert(name, OptionFailure { value: value as i32 });
            }
        }
        Ok(SetSessionOptionsResult { errors })
    }

    async fn set_session_option(&self, session: &Session, name: &str, value: Option<&str>) -> Result<()> {
        match (name, value) {
            (CATALOG_OPTION, None | Some(CATALOG)) => Ok(()),
            (CATALOG_OPTION, Some(other)) => Err(Error::invalid(format!("catalog '{other}' cannot be the current one"))),
            (SCHEMA_OPTION, value) => {
                let database = value.unwrap_or(windlass_catalog::catalog::DEFAULT_DATABASE).to_lowercase();
                if !self.coordinator.catalog().databases().await?.iter().any(|known| known.name == database) {
                    return Err(Error::invalid(format!("database '{database}' does not exist")));
                }
                session.set_database(database);
                Ok(())
            }
            (name, Some(value)) => session.set(name, value),
            (name, None) => session.reset(Some(name)),
        }
    }
}

fn session_options(session: &Session) -> GetSessionOptionsResult {
    let places = [(CATALOG_OPTION.to_owned(), CATALOG.to_owned()), (SCHEMA_OPTION.to_owned(), session.database())];
    let options = places.into_iter().chain(session.settings());
    let session_options =
        options.map(|(name, value)| (name, SessionOptionValue { option_value: Some(OptionValue::String(value)) })).collect();
    GetSessionOptionsResult { session_options }
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M> {
    M::decode(body).map_err(|cause| Error::invalid(format!("malformed action: {cause}")))
}

fn unpack<M: ProstMessageExt>(body: &Bytes) -> Result<M> {
    let any: Any = decode(body.clone())?;
    let message = any.unpack().map_err(|cause| Error::invalid(format!("malformed action: {cause}")))?;
    message.ok_or_else(|| Error::invalid(format!("the action's body is a '{}' and not a '{}'", any.type_url, M::type_url())))
}
