"""Telling people elsewhere what happened: what is said, in which form, and who sends it when.

phrases   a sentence whose names are somebody else's text, in each form that it may take
said      the messages: of a run, a sweep, the lab, a test
ill       what is wrong in the lab just now
left      what is left to tell a channel: the events after the last that it was told
forms     a message as Slack, a webhook or a mail server takes it
post      one request to an address that anybody may have chosen
telling   which channels have something left, and one of them brought up to date
sender    the thread in each web process that does that
"""
