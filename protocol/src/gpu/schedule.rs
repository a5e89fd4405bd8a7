//! Which waiting jobs may begin within the power that there is.

use serde::Serialize;

/// From this wait on a job is not overtaken any more.
pub const PATIENCE_MS: u64 = 10_000;

/// A job that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingJob {
    /// Its number; the queue is in order of arrival whatever the numbers are.
    pub id: u64,
    /// Watts that it will add to the draw of the GPU that it runs on.
    pub watts: u32,
    /// How long it has waited, in milliseconds.
    pub waited_ms: u64,
}

/// What one GPU has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GpuBudget {
    /// Most watts that it may draw.
    pub watts: u32,
    /// Watts that it draws now, whoever makes it.
    pub drawn: u32,
    /// Watts that it draws with no job of this node's: as low as waiting can bring it.
    pub rest: u32,
    /// Jobs that it has room for.
    pub slots: u32,
}

/// What all GPUs together have left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Budgets {
    /// Most watts that all may draw.
    pub watts: u32,
    /// Each of them.
    pub gpus: Vec<GpuBudget>,
}

/// What becomes of a queue now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// Jobs that begin, each with the index of its GPU.
    pub starts: Vec<(u64, usize)>,
    /// Jobs that could not run even alone: they need a larger budget.
    pub never: Vec<u64>,
}

/// Begins the jobs that fit, first come first served, each on the GPU with the most power left. A job that does not fit
/// yet may be overtaken by smaller ones until it has waited [`PATIENCE_MS`]; then nobody after it begins before it does,
/// so that it runs once what runs now has ended. No budget is ever exceeded: where the draw is above one already, nothing
/// begins.
pub fn schedule_power_aware(queue: &[WaitingJob], budgets: &Budgets) -> Schedule {
    let mut gpus = budgets.gpus.clone();
    let mut left = i64::from(budgets.watts) - gpus.iter().map(|gpu| i64::from(gpu.drawn)).sum::<i64>();
    let rest: i64 = gpus.iter().map(|gpu| i64::from(gpu.rest)).sum();
    let mut schedule = Schedule::default();
    for job in queue {
        let watts = i64::from(job.watts);
        let fits_alone = i64::from(budgets.watts) - rest >= watts
            && gpus.iter().any(|gpu| i64::from(gpu.watts) - i64::from(gpu.rest) >= watts);
        if !fits_alone {
            schedule.never.push(job.id);
            continue;
        }
        let room = |gpu: &GpuBudget| i64::from(gpu.watts) - i64::from(gpu.drawn);
        let best = (0..gpus.len())
            .filter(|index| gpus[*index].slots > 0 && room(&gpus[*index]) >= watts)
            .max_by_key(|index| (room(&gpus[*index]), std::cmp::Reverse(*index)));
        match best {
            Some(index) if left >= watts => {
                left -= watts;
                gpus[index].drawn = gpus[index].drawn.saturating_add(job.watts);
                gpus[index].slots -= 1;
                schedule.starts.push((job.id, index));
            }
            _ if job.waited_ms >= PATIENCE_MS => break,
            _ => {}
        }
    }
    schedule
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(id: u64, watts: u32, waited_ms: u64) -> WaitingJob {
        WaitingJob { id, watts, waited_ms }
    }

    fn gpu(watts: u32, drawn: u32, slots: u32) -> GpuBudget {
        GpuBudget { watts, drawn, rest: drawn.min(20), slots }
    }

    #[test]
    fn small_jobs_pass_a_large_one_for_a_while_only() {
        let budgets = Budgets { watts: 300, gpus: vec![gpu(300, 200, 4)] };
        let fresh = schedule_power_aware(&[job(1, 250, 0), job(2, 50, 0), job(3, 60, 0)], &budgets);
        assert_eq!(fresh.starts, [(2, 0)]);
        let old = schedule_power_aware(&[job(1, 250, PATIENCE_MS), job(2, 50, 0)], &budgets);
        assert_eq!(old, Schedule::default(), "what is free is kept for the large one");
    }

    #[test]
    fn what_can_never_run_blocks_nobody() {
        let budgets = Budgets { watts: 300, gpus: vec![gpu(200, 20, 4), gpu(200, 20, 4)] };
        let schedule = schedule_power_aware(&[job(1, 250, PATIENCE_MS), job(2, 100, 0), job(3, 100, 0)], &budgets);
        assert_eq!(schedule, Schedule { starts: vec![(2, 0), (3, 1)], never: vec![1] });
    }

    #[test]
    fn an_overdrawn_budget_begins_nothing() {
        let budgets = Budgets { watts: 100, gpus: vec![GpuBudget { watts: 300, drawn: 150, rest: 20, slots: 4 }] };
        assert_eq!(schedule_power_aware(&[job(1, 0, 0), job(2, 10, 0)], &budgets), Schedule::default());
    }

    fn any_budgets() -> impl Strategy<Value = Budgets> {
        let any_gpu = (0..500_u32, 0..500_u32, 0..100_u32, 0..5_u32)
            .prop_map(|(watts, drawn, rest, slots)| GpuBudget { watts, drawn, rest: rest.min(drawn), slots });
        (0..1000_u32, prop::collection::vec(any_gpu, 0..4)).prop_map(|(watts, gpus)| Budgets { watts, gpus })
    }

    fn any_queue() -> impl Strategy<Value = Vec<WaitingJob>> {
        let any = (0..400_u32, 0..2 * PATIENCE_MS);
        prop::collection::vec(any, 0..20).prop_map(|jobs| {
            (0..).zip(jobs).map(|(id, (watts, waited_ms))| WaitingJob { id, watts, waited_ms }).collect()
        })
    }

    proptest! {
        #[test]
        fn no_budget_is_exceeded(queue in any_queue(), budgets in any_budgets()) {
            let schedule = schedule_power_aware(&queue, &budgets);
            let watts = |id: u64| queue.iter().find(|job| job.id == id).expect("of the queue").watts;
            let added: u32 = schedule.starts.iter().map(|(id, _)| watts(*id)).sum();
            let drawn: u32 = budgets.gpus.iter().map(|gpu| gpu.drawn).sum();
            prop_assert!(schedule.starts.is_empty() || drawn + added <= budgets.watts);
            for (index, gpu) in budgets.gpus.iter().enumerate() {
                let here: Vec<u64> =
                    schedule.starts.iter().filter(|(_, at)| *at == index).map(|(id, _)| *id).collect();
                prop_assert!(here.len() <= gpu.slots as usize);
                let more: u32 = here.iter().map(|id| watts(*id)).sum();
                prop_assert!(here.is_empty() || gpu.drawn + more <= gpu.watts);
            }
            let mut told: Vec<u64> = schedule.starts.iter().map(|(id, _)| *id).chain(schedule.never).collect();
            let count = told.len();
            told.sort_unstable();
            told.dedup();
            prop_assert_eq!(told.len(), count, "nobody twice");
            prop_assert!(told.iter().all(|id| queue.iter().any(|job| job.id == *id)));
        }

        /// Small jobs arrive without end beside one large job: it runs all the same, soon after its patience has ended and
        /// what ran then is done.
        #[test]
        fn no_job_that_fits_alone_starves(
            watts in 50..300_u32,
            small in 1..120_u32,
            length in 1..8_u64,
            slots in 1..5_u32,
        ) {
            const SECOND_MS: u64 = 1_000;
            let mut running: Vec<(u64, u32)> = Vec::new();
            let mut queue = vec![job(0, watts, 0)];
            let deadline = PATIENCE_MS / SECOND_MS + length + 2;
            let mut began = None;
            for second in 0..=deadline {
                running.retain(|(until, _)| *until > second);
                queue.push(job(second + 1, small, 0));
                let drawn = 20 + running.iter().map(|(_, watts)| watts).sum::<u32>();
                let free = slots - running.len() as u32;
                let budgets =
                    Budgets { watts: 320, gpus: vec![GpuBudget { watts: 320, drawn, rest: 20, slots: free }] };
                for (id, _) in schedule_power_aware(&queue, &budgets).starts {
                    let position = queue.iter().position(|job| job.id == id).expect("of the queue");
                    running.push((second + length, queue.remove(position).watts));
                    if id == 0 {
                        began = Some(second);
                    }
                }
                for job in &mut queue {
                    job.waited_ms += SECOND_MS;
                }
            }
            prop_assert!(began.is_some());
        }
    }
}
