"""A small company's systems over HTTP: helpdesk, CMS and channel, with their own witness of every request."""
