//! Kubernetes quantities: `100m`, `1.5`, `128Mi`, `1e3`, `2G`.
//!
//! Values are exact and rounded up, as the API server rounds them. Source: apimachinery `resource.Quantity`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a text is not a quantity, or cannot be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form `<number><suffix>`.
    Syntax,
    /// Larger in magnitude than 2^63-1 of the unit asked for.
    TooLarge,
}

impl std::fmt::Display for QuantityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            QuantityError::Syntax => {
                "not a quantity: a number with an optional suffix m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei"
            }
            QuantityError::TooLarge => "too large: more than 2^63-1",
        })
    }
}

impl std::error::Error for QuantityError {}

/// The value in thousandths, rounded up: `100m` is 100, `0.1m` is 1.
///
/// # Errors
/// [`QuantityError`] when the text is no quantity or exceeds `i64`.
pub fn milli(quantity: &Quantity) -> Result<i64, QuantityError> {
    scaled(&quantity.0, 3)
}

/// The value in whole units, rounded up: `1Ki` is 1024, `1500m` is 2.
///
/// # Errors
/// [`QuantityError`] when the text is no quantity or exceeds `i64`.
pub fn bytes(quantity: &Quantity) -> Result<i64, QuantityError> {
    scaled(&quantity.0, 0)
}

/// Whether a quantity is less than zero, however little: rounded up, `-0.1` is zero.
pub fn is_negative(quantity: &Quantity) -> bool {
    let number = quantity.0.split(|c: char| c.is_ascii_alphabetic()).next().unwrap_or("");
    number.starts_with('-') && number.contains(|c: char| ('1'..='9').contains(&c))
}

/// Digits beyond this many cannot matter: 2^63-1 has 19, and the smallest unit is a thousandth of a nano.
const MAX_DIGITS: usize = 30;

/// `text` times 10^`decimals`, rounded towards plus infinity.
fn scaled(text: &str, decimals: i32) -> Result<i64, QuantityError> {
    let (negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
        return Err(QuantityError::Syntax);
    }
    let (binary, decimal) = suffix_exponent(suffix)?;
    let whole = whole.trim_start_matches('0');
    // Digits behind the 30th only decide whether to round up: one sticky digit keeps that.
    let trimmed = fraction.trim_end_matches('0');
    let sticky = trimmed.len() > MAX_DIGITS;
    let kept = if sticky { &trimmed[..MAX_DIGITS] } else { trimmed };
    if whole.is_empty() && kept.is_empty() && !sticky {
        return Ok(0);
    }
    if whole.len() + kept.len() > MAX_DIGITS + 8 {
        return Err(QuantityError::TooLarge);
    }
    let digits = format!("{whole}{kept}");
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| QuantityError::TooLarge)? };
    let mantissa = mantissa + i128::from(sticky && !negative);
    let exponent = decimal.saturating_add(decimals).saturating_sub(kept.len() as i32);
    let shifted = mantissa.checked_mul(1i128 << binary);
    let magnitude = match exponent {
        0.. => 10i128.checked_pow(exponent as u32).and_then(|p| shifted?.checked_mul(p)),
        _ => match (10i128.checked_pow(exponent.unsigned_abs()), shifted) {
            (Some(divisor), Some(shifted)) => Some(round_up(shifted, divisor, negative)),
            // The divisor exceeds i128, so what is left is between 0 and 1.
            (None, Some(_)) => Some(i128::from(!negative)),
            (_, None) => None,
        },
    };
    let magnitude = magnitude.ok_or(QuantityError::TooLarge)?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| QuantityError::TooLarge)
}

fn round_up(value: i128, divisor: i128, negative: bool) -> i128 {
    value / divisor + i128::from(value % divisor != 0 && !negative)
}

/// (power of 2, power of 10) of a suffix.
fn suffix_exponent(suffix: &str) -> Result<(u32, i32), QuantityError> {
    Ok(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Syntax)?;
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Syntax);
            }
            // Beyond some hundreds the sign alone decides.
            let size: i32 = digits.parse().unwrap_or(i32::MAX).min(1000);
            (0, if exponent.starts_with('-') { -size } else { size })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_and_rounded_up() {
        use QuantityError::{Syntax, TooLarge};
        let cases = [
            ("0", Ok(0), Ok(0)),
            ("1", Ok(1000), Ok(1)),
            ("100m", Ok(100), Ok(1)),
            ("0.1m", Ok(1), Ok(1)),
            ("1n", Ok(1), Ok(1)),
            ("1500m", Ok(1500), Ok(2)),
            ("1.5", Ok(1500), Ok(2)),
            (".5", Ok(500), Ok(1)),
            ("5.", Ok(5000), Ok(5)),
            ("128Mi", Ok(134_217_728_000), Ok(134_217_728)),
            ("1.5Gi", Ok(1_610_612_736_000), Ok(1_610_612_736)),
            ("2G", Ok(2_000_000_000_000), Ok(2_000_000_000)),
            ("1e3", Ok(1_000_000), Ok(1000)),
            ("1E-3", Ok(1), Ok(1)),
            ("-1", Ok(-1000), Ok(-1)),
            ("-1.5", Ok(-1500), Ok(-1)),
            ("9E", Err(TooLarge), Ok(9_000_000_000_000_000_000)),
            ("8Ei", Err(TooLarge), Err(TooLarge)),
            ("1e400", Err(TooLarge), Err(TooLarge)),
            ("1e-400", Ok(1), Ok(1)),
            ("0.0000000000000000000000000000000000000000001", Ok(1), Ok(1)),
            ("99999999999999999999999999999999999999999999", Err(TooLarge), Err(TooLarge)),
            ("0e99999999999", Ok(0), Ok(0)),
            ("", Err(Syntax), Err(Syntax)),
            (".", Err(Syntax), Err(Syntax)),
            ("1 Gi", Err(Syntax), Err(Syntax)),
            ("1gb", Err(Syntax), Err(Syntax)),
            ("1KB", Err(Syntax), Err(Syntax)),
            ("1.2.3", Err(Syntax), Err(Syntax)),
            ("--1", Err(Syntax), Err(Syntax)),
            ("1e", Err(Syntax), Err(Syntax)),
            ("0x10", Err(Syntax), Err(Syntax)),
        ];
        for (text, expect_milli, expect_bytes) in cases {
            let quantity = Quantity(text.to_owned());
            assert_eq!(milli(&quantity), expect_milli, "milli {text}");
            assert_eq!(bytes(&quantity), expect_bytes, "bytes {text}");
        }
    }

    #[test]
    fn what_is_less_than_zero_is_negative_however_little() {
        for (text, expected) in [("-1", true), ("-0.1m", true), ("-.5e-9", true), ("-0", false), ("-0.0e1", false)] {
            assert_eq!(is_negative(&Quantity(text.to_owned())), expected, "{text}");
        }
        assert!(!is_negative(&Quantity("1e-1".to_owned())));
    }
}
