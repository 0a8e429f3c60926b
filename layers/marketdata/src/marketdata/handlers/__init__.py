"""What the Lambda functions behind the state machine share: logs, deadlines, errors by kind."""
