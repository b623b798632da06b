"""One folder per outside party. No lifecycle decisions; a fake lives beside the real thing and passes its suite."""
