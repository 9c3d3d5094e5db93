"""Measuring one recipe: dense checkpoints, the stages that recipes share, and the workbench that
makes a recipe's file and measures it. Nothing here knows of workers or of other studies.
"""
