use crate::tests::KeyPair;
use crate::{ErrorKind, WrappingAlgorithm, WrappingKeySpec, check_public_key, wrap};

use WrappingKeySpec::{Rsa2048, Rsa3072, Rsa4096, Unspecified};

const RSA_ENCRYPTION: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const RSASSA_PSS: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
const NULL: &[u8] = b"\x05\x00";
const F4: &[u8] = b"\x01\x00\x01";

#[test]
fn the_key_of_each_spec_is_accepted_as_that_spec_alone() {
    for spec in [Rsa2048, Rsa3072, Rsa4096] {
        let der = &KeyPair::of(spec).public;
        assert_eq!(check_public_key(der, spec).unwrap(), spec);
        assert_eq!(check_public_key(der, Unspecified).unwrap(), spec);
        for other in [Rsa2048, Rsa3072, Rsa4096, WrappingKeySpec::Sm2].into_iter().filter(|other| *other != spec) {
            assert_rejected(der, other, &format!("{spec} as {other}"));
        }
    }
}

#[test]
fn the_tests_encode_as_the_library_expects() {
    assert!(check_public_key(&public_key(&modulus(256), F4), Rsa2048).is_ok());
}

#[test]
fn a_hostile_key_is_rejected() {
    let good = public_key(&modulus(256), F4);
    let mut even = modulus(256);
    *even.last_mut().unwrap() = 0x10;
    let mut short = modulus(256);
    short[0] = 0x7f;
    let hostile = [
        ("nothing", vec![]),
        ("exponent 3", public_key(&modulus(256), b"\x03")),
        ("exponent 1", public_key(&modulus(256), b"\x01")),
        ("exponent of three other bytes", public_key(&modulus(256), b"\x01\x00\x03")),
        ("1024 bits", public_key(&modulus(128), F4)),
        ("2056 bits", public_key(&modulus(257), F4)),
        ("8192 bits", public_key(&modulus(1024), F4)),
        ("an even modulus", public_key(&even, F4)),
        ("2047 bits", public_key(&short, F4)),
        ("2047 bits, padded to 2048", raw_public_key(&[&[0], &short[..]].concat(), F4)),
        ("a negative modulus", raw_public_key(&modulus(256), F4)),
        ("a modulus with two zeros before it", raw_public_key(&[&[0, 0], &modulus(256)[..]].concat(), F4)),
        ("a padded exponent", public_key(&modulus(256), b"\x00\x01\x00\x01")),
        ("a byte after it", [&good[..], &[0]].concat()),
        ("a key after it", [&good[..], &good[..]].concat()),
        ("the last byte missing", good[..good.len() - 1].to_vec()),
        ("a length in three bytes", [&[0x30, 0x83, 0x00], &good[2..]].concat()),
        ("an indefinite length", [&[0x30, 0x80], &good[4..], &[0, 0]].concat()),
        ("no parameters", info(RSA_ENCRYPTION, &key(&[&[0], &modulus(256)[..]].concat(), F4))),
        ("another algorithm", info(&[RSASSA_PSS, NULL].concat(), &good[24..])),
        ("PKCS#1", key(&[&[0], &modulus(256)[..]].concat(), F4)),
        ("PKCS#8", KeyPair::of(Rsa2048).private.clone()),
        ("an EC key", elliptic()),
        ("PEM", b"-----BEGIN PUBLIC KEY-----\n".to_vec()),
    ];
    for (what, der) in hostile {
        assert_rejected(&der, Unspecified, what);
        assert_rejected(&der, Rsa2048, what);
        let error = wrap(b"material", &der, WrappingAlgorithm::RsaesOaepSha256, Unspecified).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrappingKeyRejected, "{what}");
    }
}

#[test]
fn any_other_bit_outside_the_modulus_is_rejected() {
    let good = public_key(&modulus(256), F4);
    for index in (0..33).chain(33 + 256..good.len()) {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            assert_rejected(&bad, Rsa2048, &format!("bit {bit} of byte {index}"));
        }
    }
}

fn assert_rejected(der: &[u8], spec: WrappingKeySpec, what: &str) {
    let error = check_public_key(der, spec).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::WrappingKeyRejected, "{what}");
}

/// Odd, and with its first bit set.
fn modulus(bytes: usize) -> Vec<u8> {
    vec![0xa5; bytes]
}

fn public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if modulus[0] & 0x80 == 0 { &[] } else { &[0] };
    raw_public_key(&[sign, modulus].concat(), exponent)
}

fn raw_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    info(&[RSA_ENCRYPTION, NULL].concat(), &key(modulus, exponent))
}

fn info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(0x30, algorithm), tlv(0x03, &[&[0], key].concat())].concat())
}

fn key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(0x02, modulus), tlv(0x02, exponent)].concat())
}

fn elliptic() -> Vec<u8> {
    let algorithm = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    info(algorithm, &[&[4], &[0x11; 64][..]].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        0..=0x7f => vec![tag, length[1]],
        0x80..=0xff => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [&header[..], content].concat()
}
