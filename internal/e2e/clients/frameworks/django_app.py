# A project around django_views.py. Usage: django_app.py PORT
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    ROOT_URLCONF="django_views", SECRET_KEY="tests only", ALLOWED_HOSTS=["127.0.0.1"],
    REDIS_URL=os.environ["REDIS_URL"], SSED_AUTH_JWT_SECRET=os.environ["SSED_AUTH_JWT_SECRET"],
)
execute_from_command_line(["django", "runserver", "--noreload", "--skip-checks", "127.0.0.1:" + sys.argv[1]])
