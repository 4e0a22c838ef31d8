//! Shamir's sharing over again, and done otherwise than in the product: GF(2^8) modulo 0x11B by tables of logarithms, and the
//! value at 0 by Neville's scheme.

use std::sync::LazyLock;

/// Powers of 3, which generates the field's multiplicative group, and which power each element is.
static TABLES: LazyLock<([u8; 255], [u8; 256])> = LazyLock::new(|| {
    let (mut powers, mut logarithms) = ([0; 255], [0; 256]);
    let mut power: u8 = 1;
    for exponent in 0..=254 {
        powers[usize::from(exponent)] = power;
        logarithms[usize::from(power)] = exponent;
        let doubled = (power << 1) ^ if power & 0x80 == 0 { 0 } else { 0x1B };
        power ^= doubled;
    }
    (powers, logarithms)
});

fn logarithm(a: u8) -> usize {
    usize::from(TABLES.1[usize::from(a)])
}

fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    TABLES.0[(logarithm(a) + logarithm(b)) % 255]
}

fn divide(a: u8, b: u8) -> u8 {
    assert!(b != 0, "a division by 0");
    if a == 0 {
        return 0;
    }
    TABLES.0[(255 + logarithm(a) - logarithm(b)) % 255]
}

/// The value at 0 of the polynomial of least degree through points at different places.
pub fn at_zero(points: &[(u8, u8)]) -> u8 {
    let mut column: Vec<u8> = points.iter().map(|(_, y)| *y).collect();
    for distance in 1..points.len() {
        for first in 0..points.len() - distance {
            let (left, right) = (points[first].0, points[first + distance].0);
            // ((0 - right) · p(left side) - (0 - left) · p(right side)) / (left - right), where a difference is a sum.
            let above = multiply(right, column[first]) ^ multiply(left, column[first + 1]);
            column[first] = divide(above, left ^ right);
        }
    }
    column[0]
}

/// The same for 32 bytes each.
pub fn secret_of(shares: &[(u8, [u8; 32])]) -> [u8; 32] {
    std::array::from_fn(|byte| {
        let points: Vec<_> = shares.iter().map(|(x, y)| (*x, y[byte])).collect();
        at_zero(&points)
    })
}
