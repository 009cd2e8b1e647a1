//! Which key comes next: a fast generator of random numbers, and the uniform
//! and Zipf draws on it.
//!
//! Zipf draws use rejection-inversion (Hörmann and Derflinger, "Rejection-
//! inversion to generate variates from monotone discrete distributions", ACM
//! TOMACS 6(3), 1996): exact for every theta above zero, no table, and hardly
//! more than one `powf` a draw however many keys there are.

use crate::plan::Distribution;

/// SplitMix64's finisher: a bijection that scatters its input.
#[inline]
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.bits() as u128 * n as u128) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// An exponentially distributed number with mean 1.
    #[inline]
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// Draws key numbers in `[0, keys)`.
#[derive(Clone, Debug)]
pub enum Draw {
    /// All alike.
    Uniform {
        /// Distinct keys.
        keys: u64,
    },
    /// Some far more often than others.
    Zipf(Zipf),
    /// One after the other.
    Sequential {
        /// Distinct keys.
        keys: u64,
        /// The next one.
        next: u64,
    },
}

impl Draw {
    /// For worker `index` of `workers`.
    pub fn new(distribution: Distribution, keys: u64, index: u32, workers: u32) -> Draw {
        match distribution {
            Distribution::Uniform => Draw::Uniform { keys },
            Distribution::Zipf(theta) => Draw::Zipf(Zipf::new(keys, theta)),
            Distribution::Sequential => {
                let next = (keys as u128 * index as u128 / workers as u128) as u64;
                Draw::Sequential { keys, next }
            }
        }
    }

    /// The next key's number.
    #[inline]
    pub fn next(&mut self, rng: &mut Rng) -> u64 {
        match self {
            Draw::Uniform { keys } => rng.below(*keys),
            Draw::Zipf(zipf) => zipf.scatter(zipf.rank(rng) - 1),
            Draw::Sequential { keys, next } => {
                let this = *next;
                *next = if this + 1 == *keys { 0 } else { this + 1 };
                this
            }
        }
    }
}

/// The Zipf distribution over ranks `1..=n`.
#[derive(Clone, Debug)]
pub struct Zipf {
    n: f64,
    theta: f64,
    /// `1 - theta`, or 0 where theta is so near 1 that logarithms serve.
    slope: f64,
    area_first: f64,
    area_last: f64,
    squeeze: f64,
    keys: u64,
    stride: u64,
}

impl Zipf {
    /// Over `keys` keys.
    pub fn new(keys: u64, theta: f64) -> Zipf {
        let slope = if (1.0 - theta).abs() < 1e-6 { 0.0 } else { 1.0 - theta };
        let mut zipf = Zipf {
            n: keys as f64,
            theta,
            slope,
            area_first: 0.0,
            area_last: 0.0,
            squeeze: 0.0,
            keys,
            stride: coprime_near(keys, 0.618_033_988_749_895),
        };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(zipf.n + 0.5);
        zipf.squeeze = 2.0 - zipf.area_inverse(zipf.area(2.5) - 2f64.powf(-theta));
        zipf
    }

    /// The integral of `x^-theta`.
    #[inline]
    fn area(&self, x: f64) -> f64 {
        if self.slope == 0.0 { x.ln() } else { (x.powf(self.slope) - 1.0) / self.slope }
    }

    #[inline]
    fn area_inverse(&self, area: f64) -> f64 {
        if self.slope == 0.0 {
            area.exp()
        } else {
            (1.0 + area * self.slope).max(0.0).powf(1.0 / self.slope)
        }
    }

    /// A rank, 1 being the most popular.
    #[inline]
    pub fn rank(&self, rng: &mut Rng) -> u64 {
        loop {
            let area = self.area_last + rng.unit() * (self.area_first - self.area_last);
            let x = self.area_inverse(area);
            let rank = (x + 0.5).floor().clamp(1.0, self.n);
            // The first test accepts nearly always and costs nothing.
            if rank - x <= self.squeeze || area >= self.area(rank + 0.5) - rank.powf(-self.theta) {
                return rank as u64;
            }
        }
    }

    /// Spreads neighbouring ranks over the key space, one to one. Without it
    /// the popular keys would be the ones written first, and would lie side by
    /// side in the server's memory as they never do in practice.
    #[inline]
    pub fn scatter(&self, rank: u64) -> u64 {
        (rank as u128 * self.stride as u128 % self.keys as u128) as u64
    }
}

/// A number near `keys * fraction` that shares no divisor with `keys`.
fn coprime_near(keys: u64, fraction: f64) -> u64 {
    fn divisor(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    let start = ((keys as f64 * fraction) as u64).max(1);
    (start..).find(|candidate| divisor(*candidate, keys) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_matches_its_formula() {
        for theta in [0.5, 0.99, 1.0, 1.3] {
            let keys = 1000;
            let zipf = Zipf::new(keys, theta);
            let mut rng = Rng::new(7);
            let draws = 400_000;
            let mut seen = vec![0u32; keys as usize + 1];
            for _ in 0..draws {
                seen[zipf.rank(&mut rng) as usize] += 1;
            }
            let norm: f64 = (1..=keys).map(|k| (k as f64).powf(-theta)).sum();
            for k in [1usize, 2, 3, 10, 100] {
                let expected = draws as f64 * (k as f64).powf(-theta) / norm;
                let deviation = (f64::from(seen[k]) - expected).abs() / expected.sqrt();
                assert!(deviation < 5.0, "theta {theta} rank {k}: {} for {expected}", seen[k]);
            }
        }
    }

    #[test]
    fn scatter_is_one_to_one() {
        for keys in [1, 2, 10, 999, 1000, 4096] {
            let zipf = Zipf::new(keys, 0.9);
            let mut seen = vec![false; keys as usize];
            for rank in 0..keys {
                seen[zipf.scatter(rank) as usize] = true;
            }
            assert!(seen.into_iter().all(|hit| hit), "{keys}");
        }
    }

    #[test]
    fn sequential_covers_everything_in_turn() {
        let mut draw = Draw::new(Distribution::Sequential, 4, 1, 2);
        let mut rng = Rng::new(1);
        let drawn: Vec<_> = (0..5).map(|_| draw.next(&mut rng)).collect();
        assert_eq!(drawn, [2, 3, 0, 1, 2]);
    }
}
