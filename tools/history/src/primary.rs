//! Whether a partition had one primary at a time.

use crate::operation::Acknowledgement;
use crate::violation::{Check, Evidence, Reason, Violation};
use std::collections::HashMap;

/// Whether at most one node acknowledged writes per partition and epoch.
///
/// Fails with the first acknowledgement by a second node, and the first one.
pub fn one_primary(acknowledgements: &[Acknowledgement]) -> Result<(), Violation> {
    let mut primaries: HashMap<(u32, u64), &Acknowledgement> = HashMap::new();
    for acknowledgement in acknowledgements {
        let Acknowledgement { partition, epoch, .. } = *acknowledgement;
        let primary = *primaries.entry((partition, epoch)).or_insert(acknowledgement);
        if primary.node != acknowledgement.node {
            return Err(Violation {
                check: Check::OnePrimary,
                subject: format!("partition {partition}"),
                reason: Reason::TwoPrimaries { epoch },
                evidence: [primary, acknowledgement].map(Evidence::from).into(),
            });
        }
    }
    Ok(())
}
