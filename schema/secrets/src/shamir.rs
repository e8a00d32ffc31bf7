//! Shamir's sharing over GF(2^8) in the layout sops took from Vault: share = the bytes of f(x), then x.
//! No crate was found that writes exactly this layout, so the sixty lines are here, with a test against known shares.

use aes_gcm::aead::OsRng;
use aes_gcm::aead::rand_core::RngCore;
use zeroize::Zeroizing;

/// Multiplication modulo x^8+x^4+x^3+x+1, without branches on secret bits.
fn mul(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub((b >> bit) & 1);
        a = (a << 1) ^ (0x1b & 0u8.wrapping_sub(a >> 7));
    }
    product
}

/// a^254, the inverse (and 0 for 0).
fn inverse(a: u8) -> u8 {
    let (mut power, mut result) = (a, 1);
    for _ in 0..7 {
        power = mul(power, power);
        result = mul(result, power);
    }
    result
}

/// Splits into `count` shares of which `threshold` are enough. `None` for numbers that make no sense.
pub(crate) fn split(
    secret: &[u8],
    count: usize,
    threshold: usize,
) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    let count = u8::try_from(count).ok()?;
    if threshold < 2 || usize::from(count) < threshold || secret.is_empty() {
        return None;
    }
    let mut shares: Vec<_> = (1..=count)
        .map(|_| Zeroizing::new(Vec::with_capacity(secret.len() + 1)))
        .collect();
    let mut coefficients = Zeroizing::new(vec![0; threshold]);
    for byte in secret {
        OsRng.fill_bytes(&mut coefficients);
        coefficients[0] = *byte;
        for (x, share) in (1..=count).zip(&mut shares) {
            share.push(coefficients.iter().rev().fold(0, |sum, c| mul(sum, x) ^ c));
        }
    }
    for (x, share) in (1..=count).zip(&mut shares) {
        share.push(x);
    }
    Some(shares)
}

/// The secret from all given shares. Too few shares than were needed give a wrong secret, not an error.
pub(crate) fn combine(shares: &[Zeroizing<Vec<u8>>]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let length = shares.first().map_or(0, |share| share.len());
    if shares.len() < 2 {
        return Err("fewer than two shares");
    }
    if length < 2 || shares.iter().any(|share| share.len() != length) {
        return Err("the shares differ in length");
    }
    let xs: Vec<u8> = shares.iter().map(|share| share[length - 1]).collect();
    if xs.iter().enumerate().any(|(at, x)| xs[..at].contains(x)) {
        return Err("a share is there twice");
    }
    let mut secret = Zeroizing::new(vec![0; length - 1]);
    for (share, x) in shares.iter().zip(&xs) {
        // Lagrange at 0: the product over the others of xj / (xj - x), subtraction being xor.
        let weight = xs
            .iter()
            .filter(|xj| *xj != x)
            .fold(1, |w, xj| mul(w, mul(*xj, inverse(*xj ^ x))));
        for (sum, y) in secret.iter_mut().zip(share.iter()) {
            *sum ^= mul(weight, *y);
        }
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_but_zero_has_an_inverse() {
        assert!((1..=255).all(|a| mul(a, inverse(a)) == 1));
        assert_eq!(mul(0x53, 0xca), 1);
    }

    #[test]
    fn any_threshold_of_shares_gives_the_secret_and_fewer_do_not() {
        let secret: Vec<u8> = (0..32).collect();
        let shares = split(&secret, 4, 3).expect("4 of 3 makes sense");
        for left_out in 0..4 {
            let mut some = shares.clone();
            some.remove(left_out);
            assert_eq!(&*combine(&some).expect("three shares"), &secret);
        }
        assert_ne!(&*combine(&shares[..2]).expect("two shares"), &secret);
        assert_eq!(&*combine(&shares).expect("all"), &secret);
    }

    #[test]
    fn doubled_or_uneven_shares_are_refused() {
        let shares = split(&[1, 2, 3], 2, 2).expect("2 of 2");
        assert!(combine(&[shares[0].clone(), shares[0].clone()]).is_err());
        assert!(combine(&shares[..1]).is_err());
        assert!(combine(&[shares[0].clone(), Zeroizing::new(vec![1, 2])]).is_err());
        assert!(split(&[1], 2, 1).is_none());
    }
}
