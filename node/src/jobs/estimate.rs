//! Whether there is room for a job: the one rule behind quotes and admission.

use aitbc_protocol::job::Rejection;

/// How much of something that runs jobs is taken: of the whole node, or of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Jobs that run.
    pub(super) running: u32,
    /// Jobs for which a quote keeps room.
    pub(super) promised: u32,
    /// Jobs that can run at a time.
    pub(super) slots: u32,
}

/// What a job needs of a model's context, as far as it is known: before the prompt is counted, the answer alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Tokens of prompt and answer.
    pub(super) tokens: u32,
    /// Tokens that the model takes.
    pub(super) context: u32,
}

/// Refuses what does not fit. Quotes and admission call it with the same inputs, so that what was promised is not
/// refused later for a reason that was known before; a job's own promise is not counted against it.
pub(super) fn estimate(node: Usage, model: Usage, demand: Demand) -> Result<(), Rejection> {
    fits(demand)?;
    for Usage { running, promised, slots } in [node, model] {
        if running.saturating_add(promised) >= slots {
            return Err(Rejection::Full { running, promised, slots });
        }
    }
    Ok(())
}

/// The part of the estimate that does not change with time.
pub(super) fn fits(demand: Demand) -> Result<(), Rejection> {
    if demand.tokens > demand.context {
        return Err(Rejection::ContextTooSmall { needed: demand.tokens, context: demand.context });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FITS: Demand = Demand { tokens: 10, context: 10 };

    #[test]
    fn a_full_model_on_a_free_node_is_full() {
        let node = Usage { running: 1, promised: 0, slots: 4 };
        let model = Usage { running: 1, promised: 0, slots: 1 };
        assert_eq!(
            estimate(node, model, FITS),
            Err(Rejection::Full { running: 1, promised: 0, slots: 1 }),
            "the numbers are those of what is full"
        );
    }

    #[test]
    fn a_request_beyond_the_context_names_both_sizes() {
        let free = Usage { slots: 1, ..Usage::default() };
        let demand = Demand { tokens: 11, context: 10 };
        assert_eq!(estimate(free, free, demand), Err(Rejection::ContextTooSmall { needed: 11, context: 10 }));
    }

    proptest! {
        #[test]
        fn room_is_what_is_neither_taken_nor_promised(running: u32, promised: u32, slots: u32) {
            let usage = Usage { running, promised, slots };
            let room = u64::from(running) + u64::from(promised) < u64::from(slots);
            prop_assert_eq!(estimate(usage, usage, FITS).is_ok(), room);
        }
    }
}
