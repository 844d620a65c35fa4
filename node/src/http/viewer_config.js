// The OHIF viewer's settings, sent as /app-config.js. What mattered: everything by WADO-RS, from this origin, frame by frame.

// The name as the console writes it; the viewer's own parts know the alphabetic group only, and a Chinese name may have none.
function tesseraPatientName(name) {
  const group = key => (name?.[key] ?? name?.[0]?.[key] ?? '').replace(/^\^+|\^+$/g, '');
  const alphabetic = group('Alphabetic').replaceAll('^', ' ');
  const ideographic = group('Ideographic').replaceAll('^', '');
  return alphabetic && ideographic ? `${ideographic} (${alphabetic})` : ideographic || alphabetic;
}

// Whose image it is, and whose device made it, stands on the image itself (R-D3).
function tesseraOverlay(id, title, content) {
  return {
    id,
    title,
    inheritsFrom: 'ohif.overlayItem',
    contentF: ({ referenceInstance }) => (referenceInstance ? content(referenceInstance) || null : null),
  };
}

window.config = {
  name: 'tessera',
  routerBasename: null,
  extensions: [],
  modes: [],
  customizationService: [
    {
      'ohif.tours': { $set: [] },
      'viewportOverlay.topRight': {
        $set: [
          tesseraOverlay('PatientName', 'Patient', image => tesseraPatientName(image.PatientName)),
          tesseraOverlay('PatientFacts', 'Number, sex, age', image =>
            [image.PatientID, image.PatientSex, image.PatientAge?.replace(/^0+/, '')].filter(Boolean).join(' · ')
          ),
          tesseraOverlay('InstitutionName', 'Hospital', image => image.InstitutionName),
        ],
      },
    },
  ],
  whiteLabeling: {
    createLogoComponentFn: React =>
      React.createElement(
        'a',
        { href: '/', title: 'Back to the console', style: { color: '#fff', fontSize: '15px', fontWeight: 600 } },
        '{{title}}'
      ),
  },
  showStudyList: true,
  showPatientInfo: 'visible',
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' },
  maxNumRequests: { interaction: 20, thumbnail: 10, prefetch: 10 },
  defaultDataSourceName: 'tessera',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'tessera',
      configuration: {
        friendlyName: '{{title}}',
        name: 'tessera',
        wadoUriRoot: window.location.origin + '/dicom-web',
        qidoRoot: window.location.origin + '/dicom-web',
        wadoRoot: window.location.origin + '/dicom-web',
        qidoSupportsIncludeField: true,
        supportsReject: false,
        supportsStow: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        dicomUploadEnabled: false,
        singlepart: 'bulkdata,video',
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
