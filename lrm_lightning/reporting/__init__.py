"""From records to tables, figures and one web page; reads files only."""
