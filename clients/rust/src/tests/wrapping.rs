use crate::tests::KeyPair;
use crate::tests::unwrap::unwrap;
use crate::wrapping::aes_key_wrap;
use crate::{ErrorKind, WrappingAlgorithm, WrappingKeySpec, check_material, wrap};

use WrappingAlgorithm::{RsaAesKeyWrapSha1, RsaAesKeyWrapSha256, RsaesOaepSha1, RsaesOaepSha256};
use WrappingKeySpec::{Rsa2048, Rsa3072, Rsa4096};

/// The most bytes of key material: RFC 8017 section 7.1.1, and 6144 bytes of wrapped material in all.
const CAPACITIES: [(WrappingAlgorithm, WrappingKeySpec, usize); 12] = [
    (RsaesOaepSha1, Rsa2048, 214),
    (RsaesOaepSha1, Rsa3072, 342),
    (RsaesOaepSha1, Rsa4096, 470),
    (RsaesOaepSha256, Rsa2048, 190),
    (RsaesOaepSha256, Rsa3072, 318),
    (RsaesOaepSha256, Rsa4096, 446),
    (RsaAesKeyWrapSha1, Rsa2048, 5880),
    (RsaAesKeyWrapSha1, Rsa3072, 5752),
    (RsaAesKeyWrapSha1, Rsa4096, 5624),
    (RsaAesKeyWrapSha256, Rsa2048, 5880),
    (RsaAesKeyWrapSha256, Rsa3072, 5752),
    (RsaAesKeyWrapSha256, Rsa4096, 5624),
];

#[test]
fn what_is_wrapped_unwraps_to_the_same_up_to_the_limit_and_no_further() {
    for (algorithm, spec, limit) in CAPACITIES {
        let pair = KeyPair::of(spec);
        for size in [1, 7, 8, 9, 32, limit] {
            let material: Vec<u8> = (0..=255).cycle().take(size).collect();
            let wrapped = wrap(&material, &pair.public, algorithm, spec).unwrap();
            assert!(wrapped.len() <= 6144);
            assert_eq!(unwrap(&pair.private, algorithm, &wrapped).unwrap(), material, "{algorithm} {spec} {size}");
        }
        let error = wrap(&vec![7; limit + 1], &pair.public, algorithm, spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MaterialUnsuitable);
        assert!(error.message().contains(&format!("{algorithm}, which holds at most {limit} bytes under {spec}")));
    }
}

#[test]
fn no_two_wrappings_are_the_same() {
    let pair = KeyPair::of(Rsa2048);
    for algorithm in [RsaesOaepSha256, RsaAesKeyWrapSha256] {
        let [one, other] = [(); 2].map(|()| wrap(b"material", &pair.public, algorithm, Rsa2048).unwrap());
        assert_ne!(one[..256], other[..256]);
        // Of two AES keys, not one twice.
        assert!(algorithm == RsaesOaepSha256 || one[256..] != other[256..]);
    }
}

#[test]
fn what_cannot_be_key_material_is_refused() {
    for material in [&b""[..], b"-----BEGIN PRIVATE KEY-----"] {
        let error = check_material(material, WrappingAlgorithm::Unspecified, WrappingKeySpec::Unspecified).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MaterialUnsuitable);
    }
}

#[test]
fn before_the_spec_is_known_only_what_fits_none_is_refused() {
    let check = |size| check_material(&vec![7; size], RsaesOaepSha256, WrappingKeySpec::Unspecified);
    assert!(check(446).is_ok());
    assert!(check(447).is_err());
    assert!(check_material(&[7; 9999], WrappingAlgorithm::Unspecified, WrappingKeySpec::Unspecified).is_ok());
}

#[test]
fn other_algorithms_are_refused() {
    #[allow(deprecated)]
    let others = [WrappingAlgorithm::RsaesPkcs1V15, WrappingAlgorithm::Sm2pke, WrappingAlgorithm::Unspecified];
    for algorithm in others {
        let error = wrap(b"material", &KeyPair::of(Rsa2048).public, algorithm, Rsa2048).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MaterialUnsuitable);
    }
}

/// RFC 5649's two plain texts. Its own key is of 192 bits, which this library does not offer: the answers are those of
/// another implementation, pyca/cryptography, for a key of 256 bits.
#[test]
fn aes_key_wrap_is_that_of_rfc_5649() {
    let key: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap());
    let twenty = *b"\xc3\x7b\x7e\x64\x92\x58\x43\x40\xbe\xd1\x22\x07\x80\x89\x41\x15\x50\x68\xf7\x38";
    assert_eq!(
        aes_key_wrap(&key, &twenty).unwrap(),
        *b"\x29\xb7\xfa\x19\x1c\x21\x65\x68\x43\x74\xee\xe9\xf7\x45\x95\xe2\
           \xa4\x2b\xac\xe7\x5c\x42\x5b\x30\x53\xef\xa2\x6f\xfe\x1b\xb3\x2f"
    );
    assert_eq!(
        aes_key_wrap(&key, b"ForPasi").unwrap(),
        *b"\x44\x3b\x17\x83\x7b\xb3\x93\x48\x61\x0d\x19\x20\x2d\xf8\xa1\xf9"
    );
}
