"""What stays of a request: ids, the prediction log and its personal fields, explaining and replaying it."""
