"""One recipe, measured: dense models, the stages that recipes share, and the workbench that makes
a recipe's file and measures it. Nothing here knows of trials, workers or other studies.
"""
