"""Pictures: photos read and framed, numbers turned into colours, contact sheets."""
