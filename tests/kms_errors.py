"""Every error code KMS and STS may answer with, and the HTTP status it comes with."""

CANARY = "canary-5d1c arn:aws:iam::444455556666:role/never-to-be-seen"
"""Stands in every message of the double: where it shows up behind the broker, AWS's text has leaked."""

# AWS's own pages give several of the common errors different statuses than the JSON protocol shows in practice,
# so nothing may hang on a status where there is a code.
ERRORS: dict[str, int] = {
    "AccessDeniedException": 400,
    "DependencyTimeoutException": 500,
    "DisabledException": 400,
    "ExpiredImportTokenException": 400,
    "ExpiredToken": 403,
    "ExpiredTokenException": 400,
    "IncompleteSignature": 400,
    "IncorrectKeyMaterialException": 400,
    "InternalFailure": 500,
    "InvalidArnException": 400,
    "InvalidCiphertextException": 400,
    "InvalidClientTokenId": 403,
    "InvalidImportTokenException": 400,
    "InvalidSignatureException": 400,
    "KMSInternalException": 500,
    "KMSInvalidStateException": 400,
    "LimitExceededException": 400,
    "MissingAuthenticationToken": 403,
    "NotFoundException": 400,
    "OptInRequired": 403,
    "RequestExpired": 400,
    "RequestLimitExceeded": 400,
    "SerializationException": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "ThrottlingException": 400,
    "TooManyRequestsException": 429,
    "UnheardOfException": 400,  # a code no page lists: tomorrow's
    "UnknownOperationException": 400,
    "UnrecognizedClientException": 400,
    "UnsupportedOperationException": 400,
    "ValidationException": 400,
}


class KmsError(Exception):
    """The answer to a call is this code; `ERRORS` has its status."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
        self.status = ERRORS[code]
        self.message = f"{code}: {CANARY}"
