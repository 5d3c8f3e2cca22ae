"""`iterppo report`: a run as one self-contained HTML page.

run.py          what lies in the run's folder, whole or not
success.py      what its policies were worth, round by round
decision.py     ship, test or hold, with the reasons
funnel.py       what became of the log's lines, conversations and turns
curves.py       returns by turn, the training's curves, the watched policy
q_quality.py    how far Q can be trusted
suggestions.py  what was suggested then, and what is suggested now
lineage.py      which artifact was made of which
settings.py     what was set otherwise than in the round before
drawing.py      figures as SVG whose colours follow the page's theme
figures.py      the figures
html.py         the page, from templates beside this file
"""
