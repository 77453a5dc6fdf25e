//! The operator as bytes.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;

use super::{WriteExec, WriteSpec};

/// What the bytes of a [`WriteExec`] begin with. No protobuf message does: it would be a field of a wire type that there is not.
const TAG: &[u8] = b"WRITE";

/// Knows [`WriteExec`]; asks another codec, if it has one, about everything else.
#[derive(Debug, Clone, Default)]
pub struct WriteCodec {
    others: Option<Arc<dyn PhysicalExtensionCodec>>,
}

impl WriteCodec {
    /// What the staged engine speaks: the rest is Ballista's.
    pub fn staged() -> Self {
        Self { others: Some(Arc::new(BallistaPhysicalExtensionCodec::default())) }
    }

    fn others(&self) -> Result<&dyn PhysicalExtensionCodec> {
        self.others.as_deref().ok_or_else(|| DataFusionError::NotImplemented("this codec knows WriteExec only".to_owned()))
    }
}

impl PhysicalExtensionCodec for WriteCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(spec), [input]) = (buf.strip_prefix(TAG), inputs) else {
            return self.others()?.try_decode(buf, inputs, ctx, proto_converter);
        };
        let spec = WriteSpec::decode(spec).map_err(|cause| DataFusionError::External(Box::new(cause)))?;
        Ok(Arc::new(WriteExec::try_new(Arc::clone(input), Arc::new(spec))?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(write) = node.downcast_ref::<WriteExec>() else { return self.others()?.try_encode(node, buf, proto_converter) };
        buf.extend_from_slice(TAG);
        buf.extend(write.spec().encode_to_vec());
        Ok(())
    }
}
