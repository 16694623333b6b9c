"""The keys of a KMS double: the part of KMS's rules on imported material that its pages document."""

import base64
import binascii
import hashlib
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from tests.kms_errors import KmsError
from tests.kms_wrapping import ALGORITHMS, KEY_SIZES, next_wrapping_key, spki, unwrap

DAY = 86_400.0

_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<resource>(?:key|alias)/.+)")
_IMPORTABLE = frozenset({"PendingImport", "Enabled", "Disabled"})
_LENGTHS = {"SYMMETRIC_DEFAULT": 32, "HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}
_CURVES = {
    "ECC_NIST_P256": "secp256r1",
    "ECC_NIST_P384": "secp384r1",
    "ECC_NIST_P521": "secp521r1",
    "ECC_SECG_P256K1": "secp256k1",
}
_TOKEN_LENGTH = 1792  # documented is only the most there may be, 6144


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """Who asks where: the account of the credentials, the Region the request was signed for."""

    account: str
    region: str


@dataclass(slots=True, kw_only=True)
class _Key:
    arn: str
    spec: str
    origin: str
    state: str
    multi_region: bool
    created: float
    materials: list[bytes] = field(default_factory=list)
    """All that ever belonged to the key: the current one first, then the one that waits for a rotation."""
    present: bool = False
    valid_to: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    key_arn: str
    algorithm: str
    private_key: rsa.RSAPrivateKey
    valid_to: float


class Keys:
    """All keys of all accounts and Regions, and the parameter sets that are out for them."""

    def __init__(self, *, now: Callable[[], float], single_use: bool, supersede: bool, validity: float) -> None:
        self.single_use = single_use
        self.supersede = supersede
        self.validity = validity
        self.issued: set[tuple[str, str]] = set()
        """Every public key ever issued, as ARN and SHA-256 in hexadecimal."""
        self._now = now
        self._keys: dict[str, _Key] = {}
        self._sets: dict[bytes, _Set] = {}

    def add(self, *, spec: str, origin: str, state: str, account: str, region: str, multi_region: bool) -> str:
        """Create a key; its ARN."""
        key_id = f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())
        arn = f"arn:{_partition(region)}:kms:{region}:{account}:key/{key_id}"
        self._keys[arn] = _Key(
            arn=arn, spec=spec, origin=origin, state=state, multi_region=multi_region, created=self._now()
        )
        return arn

    def replicate(self, arn: str, region: str) -> str:
        """Give a multi-Region key a replica; its ARN, which has the same key id."""
        replica = arn.replace(f":{arn.split(':')[3]}:", f":{region}:")
        key = self._keys[arn]
        self._keys[replica] = _Key(
            arn=replica, spec=key.spec, origin=key.origin, state=key.state, multi_region=True, created=self._now()
        )
        return replica

    def set_state(self, arn: str, state: str) -> None:
        """Put a key into one of KMS's key states."""
        self._keys[arn].state = state

    def material(self, arn: str) -> bytes | None:
        """The plain text of what the key would use now."""
        key = self._as_of_now(self._keys[arn])
        return key.materials[0] if key.present else None

    def pending_material(self, arn: str) -> bytes | None:
        """The plain text of what waits for a rotation."""
        return next(iter(self._keys[arn].materials[1:]), None)

    async def describe(self, requester: Requester, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeKey."""
        key = self._find(requester, request)
        metadata: dict[str, Any] = {
            "AWSAccountId": requester.account,
            "KeyId": key.arn.rpartition("/")[2],
            "Arn": key.arn,
            "CreationDate": round(key.created, 3),
            "Enabled": key.state == "Enabled",
            "Description": "",
            "KeyUsage": _usage(key.spec),
            "KeyState": key.state,
            "Origin": key.origin,
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": key.spec,
            "KeySpec": key.spec,
            "MultiRegion": key.multi_region,
        }
        if self.material(key.arn) is not None:
            metadata["ExpirationModel"] = _model(key.valid_to)
            metadata |= {} if key.valid_to is None else {"ValidTo": key.valid_to}
        return {"KeyMetadata": metadata}

    async def parameters(self, requester: Requester, request: dict[str, Any]) -> dict[str, Any]:
        """GetParametersForImport."""
        key = self._importable(requester, request)
        algorithm, spec = request.get("WrappingAlgorithm"), request.get("WrappingKeySpec")
        if algorithm not in ALGORITHMS or spec not in KEY_SIZES:
            # SM2 belongs to China, and PKCS #1 v1.5 is refused since October 2023.
            raise KmsError("UnsupportedOperationException")
        private_key = await next_wrapping_key(KEY_SIZES[spec])
        if self.supersede:
            self._sets = {token: issued for token, issued in self._sets.items() if issued.key_arn != key.arn}
        token, valid_to = secrets.token_bytes(_TOKEN_LENGTH), round(self._now() + self.validity, 3)
        self._sets[token] = _Set(key_arn=key.arn, algorithm=algorithm, private_key=private_key, valid_to=valid_to)
        public_key = spki(private_key)
        self.issued.add((key.arn, hashlib.sha256(public_key).hexdigest()))
        return {
            "KeyId": key.arn,
            "ImportToken": base64.b64encode(token).decode(),
            "PublicKey": base64.b64encode(public_key).decode(),
            "ParametersValidTo": valid_to,
        }

    async def import_material(self, requester: Requester, request: dict[str, Any]) -> dict[str, Any]:
        """ImportKeyMaterial; only an import that succeeds spends its token."""
        key = self._importable(requester, request)
        valid_to = self._expiration(request)
        token = _blob(request, "ImportToken")
        issued = self._sets.get(token)
        if issued is None or issued.key_arn != key.arn:
            raise KmsError("InvalidImportTokenException")
        if issued.valid_to <= self._now():
            raise KmsError("ExpiredImportTokenException")
        try:
            material = unwrap(issued.private_key, issued.algorithm, _blob(request, "EncryptedKeyMaterial"))
        except ValueError:
            raise KmsError("InvalidCiphertextException") from None
        if not _fits(key.spec, material):
            raise KmsError("IncorrectKeyMaterialException")
        _associate(key, material, request)
        if self.single_use:
            del self._sets[token]
        if material == key.materials[0]:
            key.present, key.valid_to = True, valid_to
            key.state = "Enabled" if key.state == "PendingImport" else key.state
        return _named(key, material)

    async def delete_material(self, requester: Requester, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteImportedKeyMaterial; what was deleted may come back, anything else may not."""
        key = self._importable(requester, request)
        wanted = request.get("KeyMaterialId")
        if wanted and wanted not in [material_id(key.arn, material) for material in key.materials]:
            raise KmsError("NotFoundException")
        if key.present:
            _lose(key)
        return _named(key, key.materials[0] if key.materials else None)

    def _find(self, requester: Requester, request: dict[str, Any]) -> _Key:
        key_id = request.get("KeyId")
        if not key_id:
            raise KmsError("ValidationException")
        region, account, resource = requester.region, requester.account, f"key/{key_id}"
        if key_id.startswith("arn:"):
            parsed = _ARN.fullmatch(key_id)
            if parsed is None:
                raise KmsError("InvalidArnException")
            region, account, resource = parsed["region"], parsed["account"], parsed["resource"]
        if account != requester.account:
            raise KmsError("AccessDeniedException")
        key = self._keys.get(f"arn:{_partition(region)}:kms:{region}:{account}:{resource}")
        if key is None or region != requester.region:
            raise KmsError("NotFoundException")
        return self._as_of_now(key)

    def _as_of_now(self, key: _Key) -> _Key:
        if key.valid_to is not None and key.valid_to <= self._now():
            _lose(key)
        return key

    def _importable(self, requester: Requester, request: dict[str, Any]) -> _Key:
        key = self._find(requester, request)
        if key.origin != "EXTERNAL":
            raise KmsError("UnsupportedOperationException")
        if key.state not in _IMPORTABLE:
            raise KmsError("KMSInvalidStateException")
        return key

    def _expiration(self, request: dict[str, Any]) -> float | None:
        model, valid_to = request.get("ExpirationModel", "KEY_MATERIAL_EXPIRES"), request.get("ValidTo")
        if model == "KEY_MATERIAL_DOES_NOT_EXPIRE" and valid_to is None:
            return None
        if model != "KEY_MATERIAL_EXPIRES" or valid_to is None or not 0 < valid_to - self._now() <= 365 * DAY:
            raise KmsError("ValidationException")
        return float(valid_to)


def material_id(arn: str, material: bytes) -> str:
    """What the double names a symmetric key's material by: 64 hex digits of the key and the material, as in KMS."""
    return hashlib.sha256(arn.encode() + material).hexdigest()


def _associate(key: _Key, material: bytes, request: dict[str, Any]) -> None:
    wanted = request.get("KeyMaterialId")
    kind = request.get("ImportType", "EXISTING_KEY_MATERIAL" if key.materials else "NEW_KEY_MATERIAL")
    if key.spec != "SYMMETRIC_DEFAULT":
        if "ImportType" in request or wanted:
            raise KmsError("ValidationException")  # both are for symmetric encryption keys alone
        kind = "EXISTING_KEY_MATERIAL" if key.materials else "NEW_KEY_MATERIAL"
    if kind == "EXISTING_KEY_MATERIAL":
        if material not in key.materials or (wanted and wanted != material_id(key.arn, material)):
            raise KmsError("IncorrectKeyMaterialException")
        return
    if wanted:
        raise KmsError("ValidationException")
    if material in key.materials:
        raise KmsError("IncorrectKeyMaterialException")
    if len(key.materials) > 1:
        raise KmsError("KMSInvalidStateException")  # one that waits for its rotation is all a key may have
    key.materials.append(material)


def _lose(key: _Key) -> None:
    key.present, key.valid_to, key.state = False, None, "PendingImport"


def _fits(spec: str, material: bytes) -> bool:
    if spec in _LENGTHS:
        return len(material) == _LENGTHS[spec]
    try:
        key = load_der_private_key(material, password=None)
    except ValueError:
        return False
    if isinstance(key, rsa.RSAPrivateKey):
        return spec == f"RSA_{key.key_size}"
    return isinstance(key, ec.EllipticCurvePrivateKey) and _CURVES.get(spec) == key.curve.name


def _named(key: _Key, material: bytes | None) -> dict[str, Any]:
    if material is None or key.spec != "SYMMETRIC_DEFAULT":
        return {"KeyId": key.arn}
    return {"KeyId": key.arn, "KeyMaterialId": material_id(key.arn, material)}


def _blob(request: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(request[name], validate=True)
    except (KeyError, binascii.Error):
        raise KmsError("ValidationException") from None


def _model(valid_to: float | None) -> str:
    return "KEY_MATERIAL_DOES_NOT_EXPIRE" if valid_to is None else "KEY_MATERIAL_EXPIRES"


def _usage(spec: str) -> str:
    if spec == "SYMMETRIC_DEFAULT":
        return "ENCRYPT_DECRYPT"
    return "GENERATE_VERIFY_MAC" if spec.startswith("HMAC") else "SIGN_VERIFY"


def _partition(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"
