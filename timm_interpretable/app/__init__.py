"""The web application that compares explanations: a page and an API. Only this package imports gradio (extra `space`).

`timm-interpretable app` serves it, `spaces_app/` is the same as a Hugging Face Space.
"""
