//! Operators of ours as bytes.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::arrow::datatypes::Schema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto_common::protobuf_common as protobuf;
use prost::Message;

use crate::answer::pack::PackExec;
use crate::write::{WriteExec, WriteSpec};

/// What the bytes of a [`WriteExec`] begin with. No protobuf message does: it would be a field of a wire type that there is not.
const WRITE: &[u8] = b"WRITE";

/// What the bytes of a [`PackExec`] begin with; neither does a message begin so.
const PACK: &[u8] = b"\x07PACK";

/// Knows [`WriteExec`] and [`PackExec`]; asks another codec, if it has one, about everything else.
#[derive(Debug, Clone, Default)]
pub struct OperatorCodec {
    others: Option<Arc<dyn PhysicalExtensionCodec>>,
}

impl OperatorCodec {
    /// What the staged engine speaks: the rest is Ballista's.
    pub fn staged() -> Self {
        Self { others: Some(Arc::new(BallistaPhysicalExtensionCodec::default())) }
    }

    fn others(&self) -> Result<&dyn PhysicalExtensionCodec> {
        self.others.as_deref().ok_or_else(|| DataFusionError::NotImplemented("this codec knows operators of Windlass only".to_owned()))
    }
}

impl PhysicalExtensionCodec for OperatorCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let (Some(spec), [input]) = (buf.strip_prefix(WRITE), inputs) {
            let spec = WriteSpec::decode(spec).map_err(|cause| DataFusionError::External(Box::new(cause)))?;
            return Ok(Arc::new(WriteExec::try_new(Arc::clone(input), Arc::new(spec))?));
        }
        if let (Some(schema), [input]) = (buf.strip_prefix(PACK), inputs) {
            let schema = protobuf::Schema::decode(schema).map_err(|cause| DataFusionError::External(Box::new(cause)))?;
            return Ok(Arc::new(PackExec::new(Arc::clone(input), Arc::new(Schema::try_from(&schema)?))));
        }
        self.others()?.try_decode(buf, inputs, ctx, proto_converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(write) = node.downcast_ref::<WriteExec>() {
            buf.extend_from_slice(WRITE);
            buf.extend(write.spec().encode_to_vec());
            return Ok(());
        }
        if let Some(pack) = node.downcast_ref::<PackExec>() {
            buf.extend_from_slice(PACK);
            buf.extend(protobuf::Schema::try_from(pack.promised().as_ref())?.encode_to_vec());
            return Ok(());
        }
        self.others()?.try_encode(node, buf, proto_converter)
    }
}
