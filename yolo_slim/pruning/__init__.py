"""Choose what goes, cut, prove, recover."""
