//! Makes a mismatching stream small: leaves out steps as long as it still
//! mismatches (delta debugging with halving blocks).

use super::stream::{Step, Stream};

/// The smallest stream found within so many tries.
pub fn shrink(
    stream: &Stream,
    tries_max: usize,
    mut mismatches: impl FnMut(&Stream) -> bool,
) -> Stream {
    let mut best = stream.clone();
    let mut tries = 0;
    if best.chunk_seed.is_some() {
        let whole = Stream { chunk_seed: None, ..best.clone() };
        tries += 1;
        if mismatches(&whole) {
            best = whole;
        }
    }
    let mut block = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.steps.len() && tries < tries_max {
            let mut steps: Vec<Step> = best.steps.clone();
            steps.drain(at..(at + block).min(steps.len()));
            let candidate = best.with_steps(steps);
            tries += 1;
            if mismatches(&candidate) {
                best = candidate;
            } else {
                at += block;
            }
        }
        if block == 1 || tries >= tries_max {
            return best;
        }
        block = block.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::Protocol;
    use super::*;

    #[test]
    fn two_guilty_steps_remain() {
        let steps: Vec<Step> = (0..40u8).map(|index| Step::raw([index])).collect();
        let guilty = [Step::raw([7]), Step::raw([31])];
        let stream = Stream {
            name: String::new(),
            protocol: Protocol::Text,
            broken: false,
            steps,
            chunk_seed: Some(1),
        };
        let small = shrink(&stream, 1_000, |candidate| {
            guilty.iter().all(|step| candidate.steps.contains(step))
        });
        assert_eq!(small.steps, guilty);
        assert_eq!(small.chunk_seed, None);
    }
}
