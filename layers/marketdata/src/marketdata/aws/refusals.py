"""What AWS answers, of whichever service, to somebody whose request it will never carry out."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

_CREDENTIALS = (
    "Check the credentials that the function runs with: its execution role, and that none of its "
    "variables is an access key."
)
_PLACE = "Check the region and the endpoint that the function is configured for, and the name."
_ACCOUNT = "See the AWS account's billing, and ask AWS Support."

ANYWHERE = {
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "AuthorizationHeaderMalformed": _PLACE,
    "InvalidRegionError": _PLACE,
    "NoRegionError": _PLACE,
    "ParamValidationError": _PLACE,
    "AccountProblem": _ACCOUNT,
    "AllAccessDisabled": _ACCOUNT,
    "NotSignedUp": _ACCOUNT,
    "OptInRequired": _ACCOUNT,
}
"""The remedy for each code that comes again until somebody acts.

Not ExpiredToken: Lambda gives each new environment new credentials, and so the next call may have
them. Not RequestTimeTooSkewed: clocks are set right.
"""


def code_of(error: BotoCoreError | ClientError) -> str:
    """The service's code, or the class of what boto3 refused before it asked."""
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "")
    return type(error).__name__
